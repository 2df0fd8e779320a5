"""The model in transformers' hands: Auto classes, remote code, caches, padding, training."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, StaticCache

from kit.models.spark import SparkConfig, SparkForCausalLM, mask_spark
from kit.models.spark.mask_spark import in_block_window, warn_of_exact_window

LONG = torch.arange(700)[None] % 1900 + 50


@pytest.fixture(scope="module")
def directory(make_model):
    return make_model()


@pytest.fixture(scope="module")
def model(directory) -> SparkForCausalLM:
    return AutoModelForCausalLM.from_pretrained(directory)


@pytest.fixture(scope="module")
def long_logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(LONG).logits[0]


def test_auto_classes(directory, model):
    assert type(model) is SparkForCausalLM
    assert type(AutoConfig.from_pretrained(directory)) is SparkConfig
    assert type(AutoModel.from_pretrained(directory)).__name__ == "SparkModel"
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_save_and_load_again(model, tmp_path, long_logits):
    model.save_pretrained(tmp_path)
    again = SparkForCausalLM.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.allclose(again(LONG).logits[0], long_logits, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_attention_kernels_agree(directory, long_logits, attention):
    if attention == "flex_attention" and not torch.cuda.is_available():
        pytest.skip("flex_attention needs a GPU")
    model = SparkForCausalLM.from_pretrained(directory, attn_implementation=attention)
    with torch.inference_mode():
        assert torch.allclose(model(LONG).logits[0], long_logits, atol=1e-4)


@pytest.mark.parametrize("cache_type", [DynamicCache, StaticCache])
def test_caches_token_by_token_across_the_window(model, long_logits, cache_type):
    room = {"max_cache_len": 800} if cache_type is StaticCache else {}
    cache = cache_type(config=model.config, **room)
    with torch.inference_mode():
        steps = [model(LONG[:, :250], past_key_values=cache).logits[0]]
        for position in range(250, 420):
            token = LONG[:, position : position + 1]
            steps.append(model(token, past_key_values=cache).logits[0])
    assert torch.allclose(torch.cat(steps), long_logits[:420], atol=1e-4)


def test_generate_with_a_static_cache_across_the_window(model):
    prompt = LONG[:, :250]
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 30}
    static = model.generate(prompt, cache_implementation="static", disable_compile=True, **options)
    assert torch.equal(static, model.generate(prompt, **options))


def test_left_padding_changes_nothing(model, long_logits):
    padding = 37
    ids = torch.cat((torch.zeros(1, padding, dtype=torch.long), LONG), dim=1)
    mask = (torch.arange(ids.shape[1]) >= padding).long()[None]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask, position_ids=positions).logits[0, padding:]
    assert torch.allclose(logits, long_logits, atol=1e-4)


def test_flash_kernels_beyond_the_window_are_warned_of(directory, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(mask_spark.logger, "warning_once", warnings.append)
    config = SparkConfig.from_pretrained(directory)
    config._attn_implementation = "flash_attention_2"
    assert mask_spark.block_window(config, torch.zeros(1, 256, 32), None, None) is None
    assert warnings == []
    assert mask_spark.block_window(config, torch.zeros(1, 257, 32), None, None) is None
    assert "only the exact window" in warnings[0]


@pytest.mark.parametrize(
    ("attention", "changes", "warned"),
    [
        ("vllm", {}, True),
        ("paged|sdpa", {}, True),
        ("sdpa", {}, False),
        ("vllm", {"window": "exact"}, False),
        ("vllm", {"sliding_window": None}, False),
        ("vllm", {"sliding_window": 2048}, False),
    ],
)
def test_layers_that_ignore_the_block_window_are_warned_of(
    directory, monkeypatch, attention, changes, warned
):
    """As vLLM does: it sets its own attention, and never asks for a mask."""
    warnings: list[str] = []
    monkeypatch.setattr(mask_spark.logger, "warning_once", warnings.append)
    config = SparkConfig.from_pretrained(directory, **changes)
    config._attn_implementation = attention
    warn_of_exact_window(config)
    assert bool(warnings) is warned
    assert all(f"{attention!r} knows only the exact window" in text for text in warnings)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_cache_is_taken_by_both_names(model, long_logits, name):
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(LONG[:, :250], **{name: cache})
        logits = model(LONG[:, 250:300], **{name: cache}).logits[0]
    assert torch.allclose(logits, long_logits[250:300], atol=1e-4)


@pytest.mark.parametrize("part", [lambda model: model, lambda model: model.model])
def test_a_cache_that_nobody_would_read_is_refused(model, part):
    cache, other = DynamicCache(config=model.config), DynamicCache(config=model.config)
    with pytest.raises(TypeError, match="next_cache is a cache"):
        part(model)(LONG[:, :4], next_cache=cache)
    with pytest.raises(TypeError, match="two caches"):
        part(model)(LONG[:, :4], past_key_values=cache, cache=other)
    with pytest.raises(TypeError, match="next_cache is a cache"):
        SparkForCausalLM.create_masks_for_generate(
            model.config, torch.zeros(1, 4, 0), None, next_cache=cache
        )


def test_block_window_closed_form():
    """First visible key: 128 (floor((16 floor(p / 16) - W) / 128) + 1), at least 0."""
    for window in (192, 256):
        positions = torch.arange(1024)
        visible = in_block_window(positions[:, None], positions[None, :], window)
        first = visible.int().argmax(dim=1)
        expected = 128 * ((16 * (positions // 16) - window) // 128 + 1)
        assert torch.equal(first, expected.clamp(min=0))


def test_training_step_lowers_the_loss(directory):
    model = SparkForCausalLM.from_pretrained(directory)
    model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(LONG[:, :64], labels=LONG[:, :64]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_hidden_states_and_attentions_on_request(directory):
    model = SparkForCausalLM.from_pretrained(directory, attn_implementation="eager")
    output = model(LONG[:, :9], output_hidden_states=True, output_attentions=True)
    assert len(output.attentions) == model.config.num_hidden_layers
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    assert output.attentions[0].shape == (1, 2, 9, 9)


def test_only_the_logits_asked_for(model, long_logits):
    with torch.inference_mode():
        last = model(LONG, logits_to_keep=1).logits
    assert last.shape == (1, 1, 2000)
    assert torch.allclose(last[0], long_logits[-1:], atol=1e-5)


def test_ids_or_embeddings_not_both(model):
    with pytest.raises(ValueError, match="exactly one"):
        model(input_ids=LONG, inputs_embeds=torch.zeros(1, 3, 32))


def test_generate_uses_the_directorys_penalties(model):
    """generation_config.json carries upstream's rule; arguments override it."""
    prompt = LONG[:, :4]
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 30}
    default = model.generate(prompt, **options)
    same = model.generate(prompt, presence_penalty=1.1, frequency_penalty=0.1, **options)
    strict = model.generate(prompt, presence_penalty=1000.0, **options)[0, 4:].tolist()
    assert torch.equal(default, same)
    assert len(set(strict)) == len(strict)
