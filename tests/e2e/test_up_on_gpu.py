"""`kit up` on a GPU server that has no weights yet. The driver is a stub, the bindings are real."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kit_process import REPOSITORY, Kit

from tests import nvml_driver
from tests.file_server import FileServer, Served

pytestmark = pytest.mark.e2e

GOLDEN = REPOSITORY / "tests/golden/data/a"
FILES = {
    "mp_rank_00_model_states.pt": "ckpt/mp_rank_00_model_states.pt",
    "config.json": "config.json",
    "Tokenizer/tokenizer.model": "tokenizer/tokenizer.model",
}
CATALOGUE = """
[licences.own]
title = "Own licence"
summary = ["Be nice."]
url = "https://example.org/licence"
text_url = "{url}/licence.md"

[sources.ours]
kind = "https"
what = "our server"
base = "{url}/files"

[weights.spark-13b-chat]
what = "a tiny Spark"
sources = ["ours"]
licence = "own"
checkpoint = "mp_rank_00_model_states.pt"
{files}
"""


@pytest.fixture
def gpu_kit(kit: Kit, tmp_path: Path) -> Kit:
    """On a machine with GPUs, and without a model named."""
    hidden = ("KIT_MODEL", "CUDA_VISIBLE_DEVICES", "http_proxy")
    environ = {k: v for k, v in kit.environ.items() if k not in hidden}
    driver = tmp_path / "driver"
    driver.mkdir()
    library = str(nvml_driver.build(driver))
    return replace(kit, environ=environ | {"LD_LIBRARY_PATH": library, "KIT_RUNTIME": "local"})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    """A catalogue in which the chat weights are tiny, and a server that offers them."""
    with FileServer({"/licence.md": Served(b"all of the text")}) as files:
        for name, path in FILES.items():
            files.files[f"/files/{name}"] = Served((GOLDEN / path).read_bytes())
        listed = "\n".join(f'files."{name}" = "{name}"' for name in FILES)
        catalogue = tmp_path / "own.toml"
        catalogue.write_text(CATALOGUE.format(url=files.url(), files=listed))
        yield catalogue


def test_it_says_what_is_missing_and_ends_with_the_command(gpu_kit: Kit) -> None:
    done = gpu_kit.up()
    assert done.returncode == 3
    told = " ".join(done.stderr.split())
    assert "weights spark-13b-chat: chat, fp32" in told
    assert "about 49.59 GiB to download, 24.80 GiB converted" in told
    assert "about 7 min at 1 Gbit/s, 1 h 11 min at 100 Mbit/s" in told
    assert "licence iFLYTEK Spark-13B model licence" in told
    assert "Free for non-commercial use." in told
    lines = done.stderr.split("error: ")[0].splitlines()
    assert max(map(len, lines)) <= 80
    assert "hint: fetch them: kit weights fetch spark-13b-chat --convert" in done.stderr
    assert "--model demo" in done.stderr
    assert "[y/N]" not in done.stderr
    assert not gpu_kit.state_file.exists()
    assert not (gpu_kit.home / "data").exists()


def test_the_demo_is_served_there_if_it_is_named(gpu_kit: Kit) -> None:
    done = gpu_kit.up("--model", "demo", "--no-preflight")
    assert done.returncode == 0, done.stderr
    assert "You said: What is spark-kit?" in done.stdout
    assert "VRAM      peak" in done.stdout


def test_vram_that_the_driver_does_not_tell_breaks_the_promise(gpu_kit: Kit) -> None:
    """The server tells of torch's pool; that knows no CUDA context, and is no proof."""
    silent = replace(gpu_kit, environ=gpu_kit.environ | {"STUB_SCENARIO": "silent"})
    done = silent.up("--model", "demo", "--no-preflight")
    assert done.returncode == 5, done.stderr
    assert "stopped the service: its peak was not measured" in done.stderr
    assert "error: peak VRAM could not be measured (" in done.stderr
    assert "was stopped: its peak was not measured" in done.stdout
    (path,) = (gpu_kit.home / "state/spark-kit/receipts").glob("*.json")
    receipt = json.loads(path.read_text(encoding="utf-8"))
    assert receipt["outcome"] == "unmeasured"
    assert receipt["pools"]["device"]["peak_bytes"] is None
    assert receipt["pools"]["host"]["measured_by"] == "kernel"


def test_a_service_that_runs_has_no_proof_either_where_the_driver_names_no_process(
    gpu_kit: Kit,
) -> None:
    assert gpu_kit.up("--model", "demo", "--no-preflight").returncode == 0
    pid = gpu_kit.pid
    again = gpu_kit.up("--model", "demo", "--no-preflight")
    assert again.returncode == 0, again.stderr
    assert "VRAM      peak 0.59 GiB" in again.stdout  # the pool, and a context that is assumed
    held = gpu_kit("memory", "hold")
    assert held.returncode == 5, held.stderr
    assert "the GPU was not looked at before it started" in held.stderr
    assert "hint: let it be measured from its start: kit down" in held.stderr
    assert (gpu_kit.pid, gpu_kit("status").returncode) == (pid, 0)


def on_a_terminal(kit: Kit, answers: list[bytes], *arguments: str) -> tuple[int, str]:
    """Run ``kit up`` on a terminal, answering each question; exit code and what was shown."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        (sys.executable, *kit.program, "up", *arguments),
        env=kit.environ | {"TERM": "dumb"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    pending = list(answers)
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # how a terminal says that its other side is closed
            break
        if pending and shown.count(b"[y/N]: ") > len(answers) - len(pending):
            os.write(master, pending.pop(0))
    os.close(master)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_declined_nothing_is_fetched(gpu_kit: Kit) -> None:
    code, shown = on_a_terminal(gpu_kit, [b"n\n"])
    assert code == 3
    assert "Fetch them now? [y/N]: n" in shown
    assert "kit weights fetch spark-13b-chat --convert" in shown
    assert not (gpu_kit.home / "data").exists()


def test_fetched_on_request_and_served_from_then_on(gpu_kit: Kit, server: Path) -> None:
    kit = replace(gpu_kit, environ=gpu_kit.environ | {"KIT_WEIGHTS_CATALOGUE": str(server)})
    code, shown = on_a_terminal(kit, [b"y\n", b"y\n"], "--no-preflight")
    assert code == 0, shown
    assert "Own licence" in shown
    assert "Do you accept it? [y/N]: y" in shown
    assert "serving the weights that are here: " in shown
    assert "spark-13b-chat-bf16 is up" in shown
    again = kit.up("--no-preflight")
    assert again.returncode == 0, again.stderr
    assert "already running" in again.stderr


def test_the_licence_can_still_be_refused(gpu_kit: Kit, server: Path) -> None:
    kit = replace(gpu_kit, environ=gpu_kit.environ | {"KIT_WEIGHTS_CATALOGUE": str(server)})
    code, shown = on_a_terminal(kit, [b"y\n", b"n\n"])
    assert code == 3
    assert "the licence was not accepted, so nothing was fetched" in shown
    assert not list((gpu_kit.home / "data").rglob("*.pt"))
