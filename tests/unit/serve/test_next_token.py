"""The choice of tokens for several sequences at once."""

import torch

from kit.serve.engine import SamplingParams, Step
from kit.serve.next_token import hand_out
from kit.serve.worker import EngineSequence

END = 0


def test_every_row_by_its_own_rules():
    steps: list[list[Step | Exception]] = [[], [], []]
    params = [
        SamplingParams(max_tokens=5, min_tokens=0),
        SamplingParams(max_tokens=5, presence_penalty=2.0, top_logprobs=1),
        SamplingParams(max_tokens=1),
    ]
    sequences = [
        EngineSequence((1,), each, told.append) for each, told in zip(params, steps, strict=True)
    ]
    scores = torch.tensor([[3.0, 1.0, 2.0], [9.0, 3.0, 2.0], [9.0, 1.0, 2.0]])
    counts = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.int32)
    hand_out(sequences, scores, counts, END)
    [[first], [second], [third]] = steps
    assert (first.token_id, first.finish_reason) == (END, "stop")
    assert (second.token_id, second.finish_reason) == (2, None)  # not the end yet, nor 1 again
    assert second.logprobs.top[0][0] == END  # the model's own scores
    assert (third.token_id, third.finish_reason) == (2, "length")
    assert counts.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert scores.tolist() == [[3.0, 1.0, 2.0], [9.0, 3.0, 2.0], [9.0, 1.0, 2.0]]
