"""What the list says of a set as it arrives and is converted."""

import json
import os
from dataclasses import replace

from kit.cli.weights.fetch import next_step
from kit.lock import read_lock
from kit.settings import bundled
from kit.weights.catalogue import read_catalogue
from kit.weights.layers import read_layers
from kit.weights.listing import list_sets
from tests.home import CONTENT, SHA, TOKENIZER, Home


def test_the_list_follows(home: Home) -> None:
    data_dir = home.settings.data_dir

    def state() -> tuple[object, ...]:
        catalogue = read_catalogue(home.settings.weights_catalogue)
        found = {s.name: s for s in list_sets(catalogue, read_layers(data_dir), data_dir)}["tiny"]
        return found.complete, found.verified, found.here_bytes, found.exact

    assert state() == (False, False, 0, False)
    home.get()
    total = len(CONTENT) + len(TOKENIZER)
    assert state() == (True, True, total, True)
    os.utime(home.folder / "w.pt", ns=(1, 1))
    assert state() == (True, False, total, True)
    home.get()
    assert state() == (True, True, total, True)
    (data_dir / "out").mkdir()
    made = {
        "kit_version": "1",
        "sources": [
            {
                "name": "w.pt",
                "size_bytes": 1,
                "mtime_ns": 1,
                "fingerprint": "",
                "digest": f"sha256:{SHA}",
            }
        ],
        "lora": None,
        "precision": "bf16",
        "tensors": {},
        "files": {},
        "support": {},
        "nonfinite": {},
    }
    (data_dir / "out" / "conversion.json").write_text(json.dumps(made))
    catalogue = read_catalogue(home.settings.weights_catalogue)
    [tiny] = [s for s in list_sets(catalogue, read_layers(data_dir), data_dir) if s.name == "tiny"]
    assert tiny.converted == (data_dir / "out",)
    files, kit_lock = read_layers(data_dir).weights["tiny"], bundled("kit.lock")
    step = next_step("tiny", home.folder, files, home.settings)
    assert step == f"convert it: kit weights convert {home.folder}/w.pt {data_dir}/tiny-bf16"
    (data_dir / "out").rename(data_dir / "tiny-bf16")
    [tiny] = [s for s in list_sets(catalogue, read_lock(kit_lock), data_dir) if s.name == "tiny"]
    assert tiny.converted == (data_dir / "tiny-bf16",)  # told by its name
    step = next_step("tiny", home.folder, files, home.settings)
    assert step == f"{data_dir}/tiny-bf16 holds it in bf16: kit up --model {data_dir}/tiny-bf16"
    other = {"w.pt": replace(files["w.pt"], sha256="0" * 64)}
    assert "convert it" in str(next_step("tiny", home.folder, other, home.settings))
    assert tiny.licence_accepted is not None
