import pytest

from kit.checkpoint.layout import Dimensions, Tensor, map_tensors
from kit.errors import IntegrityError

HIDDEN, FFN, VOCAB = 6, 10, 7
LAYER_SHAPES = {
    "input_layernorm.weight": (HIDDEN,),
    "input_layernorm.bias": (HIDDEN,),
    "self_attention.query_key_value.weight": (3 * HIDDEN, HIDDEN),
    "self_attention.query_key_value.bias": (3 * HIDDEN,),
    "self_attention.dense.weight": (HIDDEN, HIDDEN),
    "self_attention.dense.bias": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.bias": (HIDDEN,),
    "mlp.dense_h_to_4h.weight": (2 * FFN, HIDDEN),
    "mlp.dense_h_to_4h.bias": (2 * FFN,),
    "mlp.dense_4h_to_h.weight": (HIDDEN, FFN),
    "mlp.dense_4h_to_h.bias": (HIDDEN,),
}


def shapes(layers: int = 2) -> dict[str, tuple[int, ...]]:
    return {
        "embedding.word_embeddings.weight": (VOCAB, HIDDEN),
        **{
            f"encoder.layers.{layer}.{name}": shape
            for layer in range(layers)
            for name, shape in LAYER_SHAPES.items()
        },
        "encoder.final_layernorm.weight": (HIDDEN,),
        "encoder.final_layernorm.bias": (HIDDEN,),
    }


def entries(shapes: dict[str, tuple[int, ...]]) -> list[Tensor]:
    return [Tensor(name, "float32", shape, ()) for name, shape in shapes.items()]


def test_dimensions_come_from_the_tensors() -> None:
    dimensions, _ = map_tensors(entries(shapes(layers=12)))
    assert dimensions == Dimensions(layers=12, hidden_size=HIDDEN, ffn_size=FFN, vocab_size=VOCAB)


def test_the_whole_mapping_of_one_layer() -> None:
    _, mappings = map_tensors(entries(shapes(layers=1)))
    mapped = {m.source.name: [(part.name, part.rows) for part in m.parts] for m in mappings}
    layer, model = "encoder.layers.0.", "model.layers.0."
    h, f = range(HIDDEN), FFN
    expected = {
        "embedding.word_embeddings.weight": [("model.embed_tokens.weight", range(VOCAB))],
        "encoder.final_layernorm.weight": [("model.norm.weight", h)],
        "encoder.final_layernorm.bias": [("model.norm.bias", h)],
    }
    for kind in ("weight", "bias"):
        expected |= {
            f"{layer}input_layernorm.{kind}": [(f"{model}input_layernorm.{kind}", h)],
            f"{layer}self_attention.query_key_value.{kind}": [
                (f"{model}self_attn.q_proj.{kind}", range(6)),
                (f"{model}self_attn.k_proj.{kind}", range(6, 12)),
                (f"{model}self_attn.v_proj.{kind}", range(12, 18)),
            ],
            f"{layer}self_attention.dense.{kind}": [(f"{model}self_attn.o_proj.{kind}", h)],
            f"{layer}post_attention_layernorm.{kind}": [
                (f"{model}post_attention_layernorm.{kind}", h)
            ],
            f"{layer}mlp.dense_h_to_4h.{kind}": [
                (f"{model}mlp.gate_proj.{kind}", range(0, 2 * f, 2)),
                (f"{model}mlp.up_proj.{kind}", range(1, 2 * f, 2)),
            ],
            f"{layer}mlp.dense_4h_to_h.{kind}": [(f"{model}mlp.down_proj.{kind}", h)],
        }
    assert mapped == expected


@pytest.mark.parametrize("name", shapes())
def test_each_missing_tensor_is_named(name: str) -> None:
    with pytest.raises(IntegrityError, match=rf"lacks:? {name}$"):
        map_tensors(entries({key: shape for key, shape in shapes().items() if key != name}))


@pytest.mark.parametrize("name", shapes())
def test_each_wrong_shape_is_noticed(name: str) -> None:
    wrong = shapes()
    wrong[name] = (*wrong[name][:-1], wrong[name][-1] + 1)
    with pytest.raises(IntegrityError, match="disagree in shape"):
        map_tensors(entries(wrong))


def test_a_missing_layer_in_the_middle() -> None:
    gap = {n: s for n, s in shapes(3).items() if not n.startswith("encoder.layers.1.")}
    with pytest.raises(IntegrityError, match=r"lacks: encoder\.layers\.1\..* and 7 more"):
        map_tensors(entries(gap))


def test_unknown_tensors_are_named() -> None:
    extra = shapes() | {"encoder.layers.0.self_attention.dense.lora_A.weight": (8, HIDDEN)}
    with pytest.raises(IntegrityError, match=r"unknown tensors: encoder.*lora_A\.weight") as caught:
        map_tensors(entries(extra))
    assert "LoRA" in caught.value.hint


def test_a_tensor_parallel_shard_is_explained() -> None:
    half = {
        **shapes(),
        "encoder.layers.0.self_attention.dense.weight": (HIDDEN, HIDDEN // 2),
    }
    with pytest.raises(
        IntegrityError, match=r"dense\.weight \[6, 3\] instead of \[6, 6\]"
    ) as caught:
        map_tensors(entries(half))
    assert "tensor-parallel" in caught.value.hint


def test_an_embedding_that_is_no_matrix() -> None:
    with pytest.raises(IntegrityError, match="not a matrix"):
        map_tensors(entries(shapes() | {"embedding.word_embeddings.weight": (VOCAB,)}))
