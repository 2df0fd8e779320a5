"""What a ChatGLM-6B prompt looks like to the model: its context, its positions, its mask.

Everything before the first ``<sop>`` is context and sees itself in both directions; the rest sees
what stands before it. Travels with every model directory.
"""

from dataclasses import dataclass

import torch

from .configuration_chatglm6b import ChatGLM6BConfig


@dataclass
class Prefix:
    """Of every row of a batch, counted with its padding, which is on the left.

    Attributes:
        padding: tokens before the first real one, ``[B, 1]``.
        context: index of the first ``<sop>``, ``[B, 1]``.
        answer: index of the mask token that the answer stands for, ``[B, 1]``.
    """

    padding: torch.Tensor
    context: torch.Tensor
    answer: torch.Tensor

    @classmethod
    def of(
        cls, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, config: ChatGLM6BConfig
    ) -> "Prefix":
        """Of prompts ``[B, T]``; attention_mask ``[B, T]`` has 0 for padding.

        Raises:
            ValueError: a prompt lacks ``<sop>``, or a mask token.
        """
        padding = torch.zeros_like(input_ids[:, :1])
        if attention_mask is not None:
            padding = (attention_mask[:, : input_ids.shape[1]].cumsum(-1) == 0).sum(-1, True)
        context = _first(input_ids, config.bos_token_id or 0)
        gmask, mask = (
            _first(input_ids, token) for token in (config.gmask_token_id, config.mask_token_id)
        )
        length = input_ids.shape[1]
        answer = torch.where(gmask < length, gmask, mask)
        for place, name in ((context, "<sop>"), (answer, "[gMASK] or [MASK]")):
            if bool((place >= length).any()):
                raise ValueError(f"a prompt of ChatGLM-6B has no {name}: the tokenizer adds both")
        return cls(padding, context, answer)

    def positions(self, first: int, length: int) -> torch.Tensor:
        """Position and block of ``length`` tokens from index ``first`` on, ``[2, B, length]``.

        In the context the position counts, after it the block does, and the position stays the
        answer's.
        """
        index = torch.arange(first, first + length, device=self.context.device).unsqueeze(0)
        inside = index < self.context
        position = torch.where(inside, index, self.answer) - self.padding
        block = torch.where(inside, 0, index - self.context + 1)
        return torch.stack([position.clamp_min(0), block])

    def mask(self, first: int, length: int, keys: int, dtype: torch.dtype) -> torch.Tensor:
        """What is added to these tokens' scores, ``[B, 1, length, keys]``: 0, or the lowest."""
        device = self.context.device
        query = torch.arange(first, first + length, device=device).view(1, -1, 1)
        key = torch.arange(keys, device=device).view(1, 1, -1)
        context, padding = self.context.unsqueeze(-1), self.padding.unsqueeze(-1)
        visible = ((key < context) | (key <= query)) & (key >= padding)
        lowest = torch.finfo(dtype).min
        return torch.where(visible, 0.0, lowest).to(dtype).unsqueeze(1)


def _first(input_ids: torch.Tensor, token: int) -> torch.Tensor:
    """The index of the first ``token`` of each row, ``[B, 1]``; where there is none, the length."""
    found = input_ids == token
    length = input_ids.shape[1]
    index = torch.arange(length, device=input_ids.device).expand_as(input_ids)
    return torch.where(found, index, length).min(-1, keepdim=True).values
