"""The top-k and top-p filters keep exactly the ids that upstream's keep."""

import torch

from kit.serve.next_token import keep_top


def test_filters(golden):
    recorded = golden.json("sampling_cases.json")
    logits = torch.tensor(recorded["logits"])
    for case in recorded["cases"]:
        scores = (logits / case["temperature"])[None]
        top_k = torch.tensor([[case.get("top_k", len(logits))]])
        top_p = torch.tensor([[case.get("top_p", 1.0)]])
        kept = torch.nonzero(keep_top(scores, top_k, top_p).isfinite())[:, 1].tolist()
        if case.get("top_p") == 1.0:  # upstream's count is a matter of its rounding
            assert kept == list(range(len(logits)))
        else:
            assert kept == sorted(case["kept"])
