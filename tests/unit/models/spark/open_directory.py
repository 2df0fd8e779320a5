"""What a converted directory gives in transformers alone, as JSON. Runs without the kit.

``python -I open_directory.py DIRECTORY``: its tokenizer's ids and mask of a chat, and the
continuations of a prompt across the attention window, in every way that transformers keeps a cache.
"""

import json
import sys
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = torch.arange(250)[None] % 1900 + 50
NEW_TOKENS = 24
WAYS: dict[str, dict[str, Any]] = {
    "no cache": {"use_cache": False},
    "cache": {},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "beams": {"num_beams": 2},
    "beams, no cache": {"num_beams": 2, "use_cache": False},
}


def main(directory: str) -> None:
    """Print version, ids, continuations by the way they were made, and the loss of a step."""
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    assert "kit" not in sys.modules, "the kit must not be needed"
    chat = [{"role": "user", "content": "Who are you?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    chat.append({"role": "assistant", "content": "A model."})
    marked = tokenizer.apply_chat_template(chat, return_assistant_tokens_mask=True)
    options = {"attention_mask": torch.ones_like(PROMPT), "max_new_tokens": NEW_TOKENS}
    answers = {
        way: model.generate(PROMPT, **options, **more)[0, PROMPT.shape[1] :].tolist()
        for way, more in WAYS.items()
    }
    print(
        json.dumps(
            {
                "version": transformers.__version__,
                "ids": ids["input_ids"].tolist(),
                "mask": marked["assistant_masks"],
                "answers": answers,
                "loss": trained_loss(model),
            }
        )
    )


def trained_loss(model: Any) -> Any:
    """The loss after a step with gradient checkpointing, under which a cache must not be filled."""
    model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model(PROMPT, labels=PROMPT, use_cache=True).loss.backward()
    optimizer.step()
    return model(PROMPT, labels=PROMPT).loss.item()


if __name__ == "__main__":
    main(sys.argv[1])
