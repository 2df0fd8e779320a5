"""The tiny model."""

import os
import signal

import torch
import torch.distributed as dist

FAILS, DIES = 1998, 1999
"""Tokens that make a forward pass fail on all ranks, and that kill the last rank."""


class Decaying(torch.nn.Module):
    """Scores = state x table; the state halves and adds the token's row of the table.

    Args:
        rows: this rank's rows of the table, ``[vocab / ranks, hidden]``.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(rows, requires_grad=False)

    def forward(self, tokens, position_ids, attention_mask, inference_params):
        """Scores ``[1, T, vocab]`` in fp32 of tokens ``[1, T]``."""
        assert position_ids.tolist() == [list(range(position_ids[0, 0], position_ids[0, -1] + 1))]
        assert attention_mask.shape[-2:] == (tokens.shape[1], position_ids[0, -1] + 1)
        self._obey(tokens)
        memory = inference_params.key_value_memory_dict  # by position, as a KV cache is
        start = inference_params.sequence_len_offset
        state = memory.get(start - 1, self.rows.new_zeros(()).float())
        states = []
        for position, vector in enumerate(self._embed(tokens[0]), start):
            state = memory[position] = state * 0.5 + vector
            states.append(state)
        return self._gather(torch.stack(states) @ self.rows.float().T)[None]

    def _obey(self, tokens: torch.Tensor) -> None:
        if FAILS in tokens:
            raise ArithmeticError("a token that fails")
        if DIES in tokens and dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        local = tokens - dist.get_rank() * len(self.rows)
        held = (local >= 0) & (local < len(self.rows))
        vectors = self.rows[local.clamp(0, len(self.rows) - 1)].float() * held[:, None]
        dist.all_reduce(vectors)
        return vectors

    def _gather(self, scores: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(scores) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, scores.contiguous())
        return torch.cat(parts, dim=-1)
