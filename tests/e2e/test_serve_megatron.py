"""`kit serve --engine megatron` as a process, with ranks, on the stand-in for upstream."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
import torch
from kit_process import Kit, alive, wait_until

from kit.memory.probes.proc import descendants
from tests.shapes import save_shards
from tests.stand_in_megatron import DIES, install

pytestmark = pytest.mark.e2e

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "a"
MESSAGES = [{"role": "user", "content": "为什么地球是独一无二的？"}]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return install(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, as `kit weights export --tp 2` leaves them."""
    folder = tmp_path_factory.mktemp("checkpoint") / "spark-tp2"
    save_shards(torch.load(GOLDEN / "ckpt" / "mp_rank_00_model_states.pt"), folder, 2)
    shutil.copy(GOLDEN / "config.json", folder)
    shutil.copy(GOLDEN / "tokenizer" / "tokenizer.model", folder)
    return folder


@pytest.fixture
def real_kit(kit: Kit, upstream: dict[str, str]) -> Kit:
    return replace(kit, program=("-m", "kit"), environ=kit.environ | upstream)


@contextmanager
def serving(kit: Kit, checkpoint: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The server, once it is ready; killed in the end if it goes on."""
    server = kit.start("serve", str(checkpoint), "--engine", "megatron", *options)
    try:
        wait_until(lambda: server.poll() is not None or ready(kit), 120)
        yield server
    finally:
        server.kill()
        server.communicate()


def ready(kit: Kit) -> bool:
    try:
        return httpx.get(f"{url(kit)}/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def url(kit: Kit) -> str:
    return f"http://127.0.0.1:{kit.port}"


def client(kit: Kit) -> openai.OpenAI:
    http = httpx.Client(trust_env=False, timeout=60)
    return openai.OpenAI(base_url=f"{url(kit)}/v1", api_key="none", max_retries=0, http_client=http)


def listening_elsewhere(pid: int) -> set[str]:
    """Addresses other than loopback that the process listens at, by /proc (see proc(5))."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since the folder was listed
            if found := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())):
                inodes.add(found[1])
    addresses = set()
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "0" * 24 + "01000000")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            host = fields[1].split(":")[0]
            if fields[3] == "0A" and fields[9] in inodes and host != loopback:
                addresses.add(host)
    return addresses


def test_two_ranks_answer_and_a_signal_lets_the_answer_finish(real_kit, checkpoint):
    with serving(real_kit, checkpoint) as server, client(real_kit) as ask:
        ranks = descendants(server.pid)
        assert len(ranks) == 3  # DeepSpeed's launcher, and two
        body = httpx.get(f"{url(real_kit)}/health/ready", trust_env=False).json()
        assert (body["engine"], body["tensor_parallel"], body["dtype"]) == (
            "megatron",
            2,
            "bfloat16",
        )
        for pid in (server.pid, *ranks):
            assert listening_elsewhere(pid) == set()
        request = {"model": "spark-tp2", "messages": MESSAGES, "max_tokens": 400}
        whole = ask.chat.completions.create(**request)
        assert whole.usage.completion_tokens > 1
        stream = ask.chat.completions.create(**request, stream=True)
        first = next(stream)
        server.send_signal(signal.SIGTERM)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in (first, *stream))
        assert text == whole.choices[0].message.content
        assert server.wait(60) == 0
        wait_until(lambda: not any(map(alive, ranks)))


def test_a_rank_that_dies_ends_the_service_with_code_6(real_kit, checkpoint):
    with serving(real_kit, checkpoint) as server, client(real_kit) as ask:
        ranks = descendants(server.pid)
        with pytest.raises(openai.APIError, match=r"rank 1 .* killed by SIGKILL"):
            ask.completions.create(model="spark-tp2", prompt=[DIES], max_tokens=3)
        _, log = server.communicate(timeout=60)
        assert server.returncode == 6
        assert re.search(
            "^error: megatron engine: rank 1 .*: killed by SIGKILL$", log, re.MULTILINE
        )
        assert not re.search("^Traceback", log, re.MULTILINE)  # of the server; a rank's is marked
        wait_until(lambda: not any(map(alive, ranks)))


@pytest.mark.parametrize("when", ["it loads", "it serves"])
def test_ranks_do_not_outlive_a_server_that_is_killed(real_kit, checkpoint, when):
    server = real_kit.start("serve", str(checkpoint), "--engine", "megatron")
    wait_until(lambda: len(descendants(server.pid)) == 3, 60)
    if when == "it serves":
        wait_until(lambda: ready(real_kit), 120)
    ranks = descendants(server.pid)
    server.kill()
    server.communicate()
    wait_until(lambda: not any(map(alive, ranks)), 60)


def test_what_cannot_be_served_is_said_before_anything_starts(real_kit, checkpoint, model_dir):
    def refused(*arguments: str, **environ: str) -> tuple[int, str]:
        done = real_kit("serve", *arguments, "--engine", "megatron", **environ)
        return done.returncode, done.stderr

    code, said = refused(str(checkpoint), "--tensor-parallel", "4")
    assert code == 2
    assert "holds 2 shards, not one for each of 4 ranks" in said
    assert "kit weights export CONVERTED OUTPUT --tp 4" in said
    code, said = refused(str(checkpoint), KIT_UPSTREAM_TREE="/nowhere")
    assert code == 3
    assert "there is no rewritten upstream tree at /nowhere/rewritten" in said
    assert "kit upstream fetch" in said
    code, said = refused(str(model_dir))
    assert code == 2
    assert "reads upstream's own checkpoints" in said
    code, said = refused(str(checkpoint), "--max-sequences", "2")
    assert code == 2
    with socket.create_server(("127.0.0.1", real_kit.port)):
        code, said = refused(str(checkpoint))
    assert code == 3
    assert f"port {real_kit.port}" in said


@pytest.mark.parametrize("ranks", [1, 2])
def test_up_stays_within_the_budget_that_its_ranks_are_planned_to_take(
    real_kit, checkpoint, tmp_path, ranks
):
    folder = checkpoint
    if ranks == 1:
        folder = tmp_path / "whole"
        shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.pt"))
        shutil.copy(GOLDEN / "ckpt" / "mp_rank_00_model_states.pt", folder)
    done = real_kit.up("--engine", "megatron", "--model", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    assert len(descendants(real_kit.pid)) == (1 if ranks == 1 else 3)
    ram = json.loads(done.stdout)["memory"]["ram"]
    assert ram["peak_bytes"] <= ram["budget_bytes"]
    assert abs(ram["peak_bytes"] - ram["plan_bytes"]) <= ram["plan_bytes"] / 10
    for command in (("memory", "hold"), ("restart",)):  # which recall the service and its plan
        told = real_kit(*command, "--json")
        assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["memory"]["ram"]["plan_bytes"] == ram["plan_bytes"]


def test_the_native_engine_does_not_run_on_several_gpus(real_kit, model_dir):
    done = real_kit("serve", str(model_dir), "--tensor-parallel", "2")
    assert done.returncode == 2
    assert "--engine megatron" in done.stderr
