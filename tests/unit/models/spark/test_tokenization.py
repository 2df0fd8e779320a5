"""The tokenizer beyond upstream's own cases: text for people, added tokens, chat turns."""

import pytest
from transformers import AutoTokenizer

import kit.models.spark  # noqa: F401  (registers Spark with the Auto classes)

USER, BOT, END = "<User> ", "<Bot> ", "<end>"


@pytest.fixture(scope="module")
def directory(make_model):
    return make_model()


@pytest.fixture
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


def chat(tokenizer, *messages: tuple[str, str], **options) -> str:
    turns = [{"role": role, "content": content} for role, content in messages]
    return tokenizer.apply_chat_template(turns, tokenize=False, **options)


def test_text_for_people(tokenizer):
    ids = tokenizer("a<tab>b\nc<pag>d<end>").input_ids
    assert tokenizer.decode(ids) == "a<tab>b<ret>c<pag>d<end>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a\tb\nc\fd"
    pieces = tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=True)
    assert tokenizer.convert_tokens_to_string(pieces) == "a\tb\nc\fd"


def test_special_tokens_leave_the_text_around_them_alone(tokenizer):
    assert tokenizer("a<end>b").input_ids == tokenizer.sp_model.encode("a<end>b")


def test_ids_beyond_the_vocabulary_have_no_text(tokenizer):
    assert tokenizer.decode([1845, 5000, 9999]) == tokenizer.decode([1845])


def test_added_tokens_are_cut_out_and_come_back(tokenizer, tmp_path):
    tokenizer.add_tokens(["[tool]", "[tool]]"])
    ids = tokenizer("x[tool]]y[tool]").input_ids
    assert [token for token in ids if token >= tokenizer.vocab_size] == [2001, 2000]
    assert tokenizer.decode(ids) == "x[tool]]y[tool]"
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("x[tool]]y[tool]").input_ids == ids
    assert (tmp_path / "tokenizer.model").exists()


def test_batches_are_padded_on_the_side_asked_for(tokenizer):
    batch = tokenizer(["a", "a b c d e"], padding=True, padding_side="left")
    assert batch["input_ids"][0][0] == tokenizer.pad_token_id
    assert batch["attention_mask"][0][0] == 0


def test_turns(tokenizer):
    turns = ("user", "one"), ("assistant", "two"), ("user", "three")
    assert chat(tokenizer, *turns, add_generation_prompt=True) == (
        f"{USER}one{END}{BOT}two{END}{USER}three{END}{BOT}"
    )
    assert chat(tokenizer, *turns[:2]) == f"{USER}one{END}{BOT}two{END}"


def test_system_message_opens_the_first_question(tokenizer):
    text = chat(tokenizer, ("system", "Be brief."), ("user", "Hi"), add_generation_prompt=True)
    assert text == f"{USER}Be brief.<ret>Hi{END}{BOT}"


def test_white_space_as_upstream_formats_it(tokenizer):
    assert chat(tokenizer, ("user", "a\tb\nc\fd")) == f"{USER}a<tab>b<ret>c<pag>d{END}"


def test_unknown_roles_are_refused(tokenizer):
    with pytest.raises(Exception, match="not tool"):
        chat(tokenizer, ("tool", "x"))


def test_content_parts_are_their_text(tokenizer):
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two\n"}, "three"]
    assert chat(tokenizer, ("system", parts), ("user", parts), ("assistant", parts)) == (
        f"{USER}one two<ret>three<ret>one two<ret>three{END}{BOT}one two<ret>three{END}"
    )


def test_other_parts_are_refused(tokenizer):
    with pytest.raises(Exception, match="not image"):
        chat(tokenizer, ("user", [{"type": "image", "url": "x"}]))


@pytest.mark.parametrize("empty", [None, "", []])
def test_an_answer_without_text(tokenizer, empty):
    assert chat(tokenizer, ("user", "x"), ("assistant", empty)) == f"{USER}x{END}{BOT}{END}"


def test_system_message_with_no_question_behind_it_ends_the_one_before(tokenizer):
    question, answer, system = ("user", "x"), ("assistant", "y"), ("system", "z")
    first = f"{USER}x<ret>z{END}"
    assert chat(tokenizer, question, system, add_generation_prompt=True) == first + BOT
    assert chat(tokenizer, question, system, answer) == f"{first}{BOT}y{END}"
    assert chat(tokenizer, question, answer, system) == f"{USER}x{END}{BOT}y{END}{USER}z{END}"
    assert chat(tokenizer, system, answer, question) == f"{BOT}y{END}{USER}z<ret>x{END}"
    assert chat(tokenizer, question, system, question) == f"{USER}x{END}{USER}z<ret>x{END}"


TURNS = [
    ("system", "你好。 Be\tbrief"),
    ("user", "Where is <end> it?"),
    ("assistant", "Here,\nthere。"),
    ("user", "世界？"),
    ("assistant", "世界 😀"),
    ("user", "And?"),
]


def assistant_tokens(tokenizer, turns, **options):
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, **options)


def of_assistant(tokenizer, ids, mask) -> str:
    return tokenizer.decode([index for index, own in zip(ids, mask, strict=True) if own])


def test_the_assistants_own_tokens_can_be_told_apart(tokenizer):
    assert "{% generation %}" in tokenizer.chat_template  # in the letters that TRL looks for
    found = assistant_tokens(tokenizer, TURNS, add_generation_prompt=True)
    ids, mask = found["input_ids"], found["assistant_masks"]
    messages = [{"role": role, "content": content} for role, content in TURNS]
    plain = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert ids == plain["input_ids"]
    assert of_assistant(tokenizer, ids, mask) == "Here,<ret>there。 <end>世界 😀<end>"
    for count in (2, 4):
        prompt = tokenizer.apply_chat_template(messages[:count], add_generation_prompt=True)
        length = len(prompt["input_ids"])
        blank = ids[length - 1] != prompt["input_ids"][-1]  # it may become one with the first word
        assert mask[length - 2 - blank : length + 1 - blank] == [0, 0, 1]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limit", [12, 500])
def test_the_mask_is_cut_and_padded_with_the_ids(directory, side, limit):
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side=side, truncation_side=side)
    chats = TURNS, TURNS[:3]
    batch = [[{"role": role, "content": content} for role, content in turns] for turns in chats]
    found = tokenizer.apply_chat_template(
        batch,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=limit,
    )
    assert found["assistant_masks"].shape == found["input_ids"].shape
    rows = zip(chats, found["input_ids"], found["assistant_masks"], strict=True)
    for turns, ids, mask in rows:
        whole = assistant_tokens(tokenizer, turns)
        pairs = list(zip(whole["input_ids"], whole["assistant_masks"], strict=True))
        kept = pairs[-limit:] if side == "left" else pairs[:limit]
        padding = [(tokenizer.pad_token_id, 0)] * (len(ids) - len(kept))
        expected = padding + kept if side == "left" else kept + padding
        assert list(zip(ids.tolist(), mask.tolist(), strict=True)) == expected


def test_a_mask_of_no_ids_is_refused(tokenizer):
    with pytest.raises(ValueError, match="needs tokenize"):
        assistant_tokens(tokenizer, TURNS, tokenize=False)
