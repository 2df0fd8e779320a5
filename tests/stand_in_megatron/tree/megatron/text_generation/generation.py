"""Forward passes with a cache, and the mask for them."""

import torch

from megatron import get_args


class InferenceParams:
    """What a forward pass finds of those before it."""

    def __init__(self, max_batch_size: int, max_sequence_len: int) -> None:
        self.max_batch_size, self.max_sequence_len = max_batch_size, max_sequence_len
        self.sequence_len_offset = 0
        self.key_value_memory_dict: dict[int, torch.Tensor] = {}


class ForwardStep:
    """A forward pass after others: any number of tokens at first, then one at a time."""

    def __init__(self, model: torch.nn.Module, max_batch_size: int, max_sequence_len: int) -> None:
        self.model = model
        self.inference_params = InferenceParams(max_batch_size, max_sequence_len)

    def __call__(self, tokens, position_ids, attention_mask):
        params = self.inference_params
        assert params.sequence_len_offset == 0 or tokens.shape[1] == 1
        scores = self.model(tokens, position_ids, attention_mask, inference_params=params)
        params.sequence_len_offset += tokens.shape[1]
        assert params.sequence_len_offset <= params.max_sequence_len
        return scores


def _build_attention_mask_and_position_ids(tokens: torch.Tensor):
    length = get_args().seq_length
    mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
    return mask, torch.arange(tokens.shape[1], device=tokens.device)[None]
