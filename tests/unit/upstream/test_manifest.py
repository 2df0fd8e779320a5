"""The record in a rewritten tree."""

from pathlib import Path

import pytest

from kit.errors import IntegrityError
from kit.upstream.files import MANIFEST_NAME, Manifest, manifest_text, read_manifest

MANIFEST = Manifest(
    "1", "https://x", "10f3", "ab", ("portability",), ("fast",), {"a": ("fast",)}, {"a": "cd"}
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "absent") is None
    (tmp_path / MANIFEST_NAME).write_text(manifest_text(MANIFEST))
    assert read_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        manifest_text(MANIFEST).replace('"version": 1', '"version": 2'),
        manifest_text(MANIFEST).replace('"rewrites"', '"others"'),
        manifest_text(MANIFEST)[:-5],
    ],
)
def test_damage_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(IntegrityError, match=r"spark-kit\.json is damaged") as caught:
        read_manifest(tmp_path)
    assert "kit upstream render" in caught.value.hint
