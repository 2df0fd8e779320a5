"""What is started, and in which environment."""

import base64
import json
import os
from pathlib import Path

import pytest

from kit.serve.megatron.launch import command, environment

SOCKET = Path("/run/socket")


def devices(ranks: int, device: str, **environ: str) -> list[str]:
    [world] = [
        word.partition("=")[2]
        for word in command(ranks, device, SOCKET, environ)
        if word.startswith("--world_info")
    ]
    return json.loads(base64.urlsafe_b64decode(world))["localhost"]


def test_a_single_rank_needs_no_launcher():
    words = command(1, "cuda", SOCKET, {})
    assert words[-2:] == ["kit.serve.megatron.rank", str(SOCKET)]
    assert not [word for word in words if "deepspeed" in word]


def test_several_are_started_by_deepspeeds_launcher():
    words = command(2, "cpu", SOCKET, {})
    assert "deepspeed.launcher.launch" in words
    assert words[-3:] == ["--module", "kit.serve.megatron.rank", str(SOCKET)]
    assert devices(2, "cpu") == ["0", "1"]


@pytest.mark.parametrize(
    ("visible", "expected"), [("2,3,5", ["2", "3"]), (" GPU-a , GPU-b", ["GPU-a", "GPU-b"])]
)
def test_only_visible_gpus_are_used(visible, expected):
    assert devices(2, "cuda", CUDA_VISIBLE_DEVICES=visible) == expected


def test_the_environment_says_all_that_upstream_asks_for():
    made = environment(1, "cpu", {"PATH": "/bin", "PYTHONPATH": "/mine"})
    assert made["PATH"] == "/bin"
    assert made["PYTHONPATH"].split(os.pathsep)[1:] == ["/mine"]
    assert (made["RANK"], made["LOCAL_RANK"], made["WORLD_SIZE"]) == ("0", "0", "1")
    assert made["MASTER_ADDR"] == "127.0.0.1"
    assert made["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert made["DS_ACCELERATOR"] == "cpu"
    assert made["GLOO_SOCKET_IFNAME"] == made["NCCL_SOCKET_IFNAME"] == "lo"
    assert environment(2, "cuda", {"NCCL_SOCKET_IFNAME": "eth0"})["NCCL_SOCKET_IFNAME"] == "eth0"


def test_on_the_cpu_freed_tensors_are_given_back():
    assert environment(1, "cpu", {})["MALLOC_MMAP_THRESHOLD_"] == "1048576"
    mine = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    assert environment(1, "cpu", mine)["MALLOC_MMAP_THRESHOLD_"] == "65536"
    assert "MALLOC_MMAP_THRESHOLD_" not in environment(1, "cuda", {})


def test_a_gpus_segments_grow_unless_somebody_knows_better():
    name = "PYTORCH_CUDA_ALLOC_CONF"
    assert environment(1, "cuda", {})[name] == "expandable_segments:True"
    assert environment(1, "cuda", {name: "backend:native"})[name] == "backend:native"
    assert name not in environment(1, "cpu", {})


def test_ranks_of_the_cpu_are_counted_as_its_devices():
    assert environment(3, "cpu", {})["LOCAL_SIZE"] == "3"
    assert "RANK" not in environment(3, "cpu", {})
