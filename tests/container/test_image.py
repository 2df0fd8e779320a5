"""What the image holds, and who runs it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import kit
from tests.container.containers import docker

pytestmark = pytest.mark.container


Inside = Callable[..., str]


@pytest.fixture
def inside(image: str) -> Inside:
    """``inside(program, *arguments)``: what a program of the image prints to its stdout."""

    def run(program: str, *arguments: str, check: bool = True) -> str:
        limits = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none")
        command = ("docker", "run", "--rm", *limits, "--entrypoint", program, image, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_its_user_is_a_number_and_not_root(image: str, inside: Inside) -> None:
    config = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]
    assert config["User"] == "10001:10001"
    assert inside("id").startswith("uid=10001 gid=10001")


def test_its_user_can_write_nothing_but_temporary_files(inside: Inside) -> None:
    found = inside(
        "find", "/", "-xdev", "(", "-path", "/proc", "-o", "-path", "/dev", ")", "-prune",
        "-o", "-writable", "!", "-type", "l", "-print", check=False,
    ).split()  # fmt: skip
    assert set(found) <= {"/tmp", "/var/tmp", "/run/lock"}


def test_it_starts_kit_serve_without_a_shell(image: str) -> None:
    config = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]
    assert config["Entrypoint"] == ["kit", "serve", "/model"]
    assert config["Healthcheck"]["Test"] == ["CMD", "kit", "health"]


def test_its_labels_say_what_is_in_it(image: str, inside: Inside) -> None:
    labels = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]["Labels"]
    manifest = json.loads(inside("cat", "/opt/spark/rewritten/spark-kit.json"))
    assert labels["org.opencontainers.image.version"] == kit.__version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.source"] == manifest["repository"]
    assert labels["spark-kit.upstream.commit"] == manifest["commit"]
    assert labels["spark-kit.upstream.rewrites"] == manifest["digest"]


def test_the_upstream_tree_in_it_is_the_one_its_kit_makes(inside: Inside) -> None:
    assert "/opt/spark/rewritten" in inside("kit", "upstream", "verify")


def test_upstreams_own_scripts_run_in_it(inside: Inside) -> None:
    """Read-only, without a network; the stand-in has one of its own."""
    if "stand_in.py" in inside("ls", "/opt/spark/rewritten/deepspeed-megatron/tools"):
        assert "a stand-in" in inside("kit", "upstream", "run", "tools/stand_in.py")
    else:
        script = "tools/run_iFlytekSpark_text_generation.py"
        assert "--predict-data" in inside("kit", "upstream", "run", script, "--help")


def test_the_list_of_its_contents_names_all_three_kinds(inside: Inside) -> None:
    text = inside("cat", "/usr/share/spark-kit/sbom.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    components = {component["name"]: component for component in document["components"]}
    assert {"torch", "transformers", "deepspeed", "spark-kit"} <= components.keys()
    assert components["libc6"]["purl"].startswith("pkg:deb/debian/libc6@")
    manifest = json.loads(inside("cat", "/opt/spark/rewritten/spark-kit.json"))
    (upstream,) = [each for each in document["components"] if each["bom-ref"] == "upstream"]
    assert upstream["version"] == manifest["commit"]


def test_what_the_list_names_is_what_python_finds(inside: Inside) -> None:
    document = json.loads(inside("cat", "/usr/share/spark-kit/sbom.json"))
    purls = [component.get("purl", "") for component in document["components"]]
    listed = {unquote(purl[len("pkg:pypi/") :]) for purl in purls if purl.startswith("pkg:pypi/")}
    found = inside(
        "python3", "-c",
        "from importlib.metadata import distributions\n"
        "for each in distributions():\n"
        "    name = each.metadata['Name'].lower().replace('_', '-').replace('.', '-')\n"
        "    print(f'{name}@{each.version}')",
    ).split()  # fmt: skip
    assert set(found) == listed


def test_no_weights_are_in_it_but_the_demos(inside: Inside) -> None:
    names = [word for name in ("*.safetensors", "*.pt", "*.ckpt") for word in ("-o", "-name", name)]
    large = ("-size", "+100k", "(", *names[1:], ")")
    found = inside("find", "/", "-xdev", *large, check=False)
    assert [Path(path).parts[-3:] for path in found.split()] == [
        ("bundled", "demo", "mp_rank_00_model_states.pt")
    ]


def test_no_package_manager_or_compiler_came_with_python(inside: Inside) -> None:
    found = inside("sh", "-c", "command -v cc gcc nvcc git; ls /opt/venv/bin", check=False)
    assert not {"cc", "gcc", "nvcc", "git", "pip"} & {Path(word).name for word in found.split()}


def test_everything_that_serves_can_be_imported_from_a_read_only_root(inside: Inside) -> None:
    modules = "torch, transformers, fastapi, uvicorn, deepspeed, torch.utils.cpp_extension"
    assert inside("python3", "-c", f"import {modules}; print('imported')").endswith("imported\n")
