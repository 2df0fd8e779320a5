import subprocess
import sys

import pytest

from kit.checkpoint.layout import Dimensions
from kit.errors import UsageError
from kit.memory.plan.shape import Architecture, read_shape
from kit.settings import bundled
from kit.weights.convert.convert import convert_checkpoint

SPARK_13B = Architecture(Dimensions(40, 5120, 14336, 60000), 32768, 8192, 40)


def test_the_13b():
    assert SPARK_13B.parameters == 13_312_542_720
    assert SPARK_13B.at("fp32").weights_bytes == 53_250_170_880
    assert SPARK_13B.at("bf16").weights_bytes == 26_625_085_440
    int8, int4 = SPARK_13B.at("int8"), SPARK_13B.at("int4")
    assert int8.integer_bytes == 13_312_542_720 - 307_200_000 - 3_000_320
    assert int4.packed_bytes == int8.integer_bytes // 2
    assert 6.8 < int4.weights_bytes / 2**30 < 6.9


def test_widths_that_cannot_be_cut_into_groups():
    with pytest.raises(UsageError, match="int4"):
        Architecture(Dimensions(2, 48, 80, 2000), 512, None, 2).at("int4")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_it_is_what_a_converted_directory_says(tmp_path, make_state, save, precision):
    source = save(make_state(layers=3, hidden=64, ffn=160, vocab=2100))
    (source.parent / "config.json").write_text('{"num_attention_heads": 2}')
    output = tmp_path / precision
    convert_checkpoint(source, output, precision=precision, tokenizer=bundled("demo/tokenizer"))
    expected = Architecture(Dimensions(3, 64, 160, 2100), 32768, 8192, 2).at(precision)
    assert read_shape(output) == expected


def test_no_torch_is_imported():
    code = (
        "import kit.memory.plan.shape, kit.memory.plan.predict, sys; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
