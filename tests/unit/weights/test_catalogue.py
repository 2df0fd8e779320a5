import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kit.errors import IntegrityError, UsageError
from kit.files import inner_path
from kit.weights.catalogue import read_catalogue


def test_the_shipped_catalogue() -> None:
    catalogue = read_catalogue()
    chat = catalogue.find("spark-13b-chat")
    assert chat.tensors_bytes == 53_250_170_880
    assert chat.files["mp_rank_00_model_states.pt"].startswith("iFlytekSpark_13B_chat_fp32/")
    assert chat.sources == ("gitee", "openi")
    assert "non-commercial" in chat.licence.summary[0]
    assert catalogue.find("spark-13b-chat-ms-bf16").tensors_bytes == 26_625_085_440
    hosts = {
        urlsplit(value).hostname
        for source in catalogue.sources.values()
        for value in source.options.values()
    } - {None}
    assert hosts == {
        "gitee.com",
        "openi.pcl.ac.cn",
        "ascend-repo-modelzoo.obs.cn-east-2.myhuaweicloud.com",
    }


def test_the_parameters_follow_from_the_shape() -> None:
    shape = read_catalogue().find("spark-13b-chat").shape
    assert shape is not None
    h, f = shape.hidden, shape.intermediate
    layer = (4 * h * h + 4 * h) + (3 * f * h + 2 * f + h) + 4 * h
    assert shape.parameters == shape.layers * layer + shape.vocabulary * h + 2 * h


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no weights named 'spark'") as caught:
        read_catalogue().find("spark")
    assert "spark-13b-chat" in caught.value.hint


OWN = """
[sources.ours]
kind = "https"
what = "our server"
base = "https://weights.example.org/spark"

[weights.ours]
what = "our fine-tune"
sources = ["ours"]
licence = "spark-13b"
checkpoint = "m.pt"
files."m.pt" = "x/m.pt"
"""


def test_an_own_catalogue_adds_to_it(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    catalogue = read_catalogue(path)
    assert catalogue.find("ours").files == {"m.pt": "x/m.pt"}
    assert catalogue.find("ours").tensors_bytes is None
    assert catalogue.find("spark-13b-chat")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"m.pt" =', '"../m.pt" ='),
        ('"x/m.pt"', '"/etc/passwd"'),
        ('["ours"]', '["theirs"]'),
        ('"https"', '"ftp"'),
        ('"spark-13b"', '"none"'),
        ('checkpoint = "m.pt"', 'checkpoint = "n.pt"'),
        ("[weights.ours]", '[weights."a/b"]'),
        ("what =", "what"),
    ],
)
def test_catalogues_that_cannot_be_used(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "own.toml"
    assert old in OWN
    path.write_text(OWN.replace(old, new))
    with pytest.raises(UsageError, match=r"cannot use the catalogue .*own\.toml"):
        read_catalogue(path)
    with pytest.raises(UsageError):
        read_catalogue(tmp_path / "missing.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UsageError, match="pipe"):
        read_catalogue(tmp_path / "pipe.toml")


@pytest.mark.parametrize("name", ["a", "a/b.c", "a b/ü", "..a", "a..b"])
def test_inner_paths(name: str) -> None:
    assert inner_path(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/a", "a/../b", "../a", "a/..", "a//b", "./a", "a/", "a\\b", "a\0b"]
)
def test_paths_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(IntegrityError, match="would lead out"):
        inner_path(name)
