"""Every recorded tokenizer case, to the letter."""

import pytest
from transformers import AutoTokenizer

import kit.models.spark  # noqa: F401  (registers Spark with the Auto classes)


@pytest.fixture
def tokenizer(golden, converted):
    return AutoTokenizer.from_pretrained(converted(golden, "fp32"))


def test_encode_and_decode(golden, tokenizer):
    for case in golden.json("tokenizer_cases.json")["encode"]:
        assert tokenizer(case["text"]).input_ids == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        assert tokenizer(case["formatted"]).input_ids == case["formatted_ids"]
        assert tokenizer.decode(case["formatted_ids"]) == case["formatted_decoded"]


def test_decode_only(golden, tokenizer):
    for case in golden.json("tokenizer_cases.json")["decode"]:
        assert tokenizer.decode(case["ids"]) == case["decoded"], case["ids"]


def test_chat_template_is_upstreams_prompt_format(golden, tokenizer):
    for case in golden.json("tokenizer_cases.json")["encode"]:
        chat = [{"role": "user", "content": case["text"]}]
        rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert rendered == case["formatted"]
        assert ids == case["formatted_ids"]


def test_vocabulary_and_special_ids(golden, tokenizer):
    cases = golden.json("tokenizer_cases.json")
    assert tokenizer.vocab_size == len(tokenizer) == cases["vocab_size"]
    ids = tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id
    assert ids == (cases["eod"], cases["pad"], cases["unk"])
