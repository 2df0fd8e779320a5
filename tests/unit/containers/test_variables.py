import re
from dataclasses import replace
from pathlib import Path

import pytest

from kit.containers.compose import published_address, service_name, variables
from kit.errors import UsageError
from kit.runtime.protocol import ServeSpec
from kit.settings import bundled
from kit.units import GIB

SPEC = ServeSpec(
    Path("/models/it's spark"),
    "星火",
    "127.0.0.1",
    9000,
    4096,
    2,
    "cuda",
    max_ram_bytes=6 * GIB,
    max_vram_bytes=30 * GIB,
    gpu="GPU-1,GPU-2",
    user="1000:1000",
)


def test_everything_that_a_spec_decides():
    assert variables(SPEC, image="spark-kit:cuda", owner="m:/state", api_key="k") == {
        "KIT_IMAGE": "spark-kit:cuda",
        "KIT_OWNER": "m:/state",
        "KIT_MODEL_DIR": "/models/it's spark",
        "KIT_MODEL_NAME": "星火",
        "KIT_HOST": "127.0.0.1",
        "KIT_PORT": "9000",
        "KIT_ENGINE": "native",
        "KIT_CONTEXT": "4096",
        "KIT_MAX_SEQUENCES": "2",
        "KIT_MAX_RAM": "6442450944B",
        "KIT_MAX_VRAM": "32212254720B",
        "KIT_MEMORY_LIMIT": "6442450944",
        "KIT_API_KEY": "k",
        "KIT_API_KEY_FILE": "/dev/null",
        "KIT_GPU": "GPU-1,GPU-2",
        "KIT_USER": "1000:1000",
    }


def test_what_it_leaves_open_is_the_files():
    found = variables(replace(SPEC, gpu=None, user=None, max_ram_bytes=None), image="x", owner="")
    assert "KIT_GPU" not in found
    assert "KIT_USER" not in found
    assert (found["KIT_MAX_RAM"], found["KIT_API_KEY"]) == ("", "")
    assert found["KIT_MEMORY_LIMIT"] == str(40 * GIB)


def test_a_key_in_a_file_is_in_no_variable():
    file = Path("/run/keys/api key")
    found = variables(SPEC, image="x", owner="", api_key="k", api_key_file=file)
    assert (found["KIT_API_KEY"], found["KIT_API_KEY_FILE"]) == ("", str(file))


def test_every_variable_is_one_of_the_file():
    text = bundled("compose.yaml").read_text(encoding="utf-8")
    known = set(re.findall(r"\$\{(KIT_\w+)", text))
    others = {name for name in known if "PROMETHEUS" in name or "GRAFANA" in name}
    assert set(variables(SPEC, image="x", owner="")) == known - others - {
        "KIT_RESTART",
        "KIT_ON_BREACH",
        "KIT_MAX_WAITING",
        "KIT_KEEP_ALIVE",
        "KIT_ALLOW_ORIGINS",
        "KIT_ALLOW_HOSTS",
        "KIT_UNKNOWN_PARAMETERS",
    }


def test_the_service_follows_the_device():
    assert service_name(SPEC) == "spark"
    assert service_name(replace(SPEC, device="cpu")) == "spark-cpu"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),  # noqa: S104
        ("", "0.0.0.0"),  # noqa: S104
        ("::1", "[::1]"),
    ],
)
def test_addresses_as_compose_takes_them(host, expected):
    assert published_address(host) == expected


def test_no_address():
    with pytest.raises(UsageError, match="not an address"):
        published_address("no.such.host.invalid")
