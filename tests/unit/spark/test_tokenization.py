"""The tokenizer beyond upstream's own cases: text for people, added tokens, chat turns."""

import pytest
from transformers import AutoTokenizer

import kit.spark  # noqa: F401  (registers Spark with the Auto classes)

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


def test_system_message_without_a_question_is_refused(tokenizer):
    with pytest.raises(Exception, match="needs a user message"):
        chat(tokenizer, ("user", "x"), ("assistant", "y"), ("system", "z"))
