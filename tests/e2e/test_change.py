"""`kit restart`, `upgrade`, `rollback`, `support-bundle` and `up --dry-run`, with a stand-in."""

import json
import re
import shutil
import stat
import tarfile
from pathlib import Path

import pytest
from kit_process import Kit, alive, kill

pytestmark = pytest.mark.e2e


def context_of(kit: Kit) -> int:
    return int(json.loads(kit.state_file.read_text())["spec"]["context"])


def test_restart_is_another_process_of_the_same_service(kit: Kit) -> None:
    kit.up("--context", "64")
    before = kit.pid
    done = kit("restart")
    assert done.returncode == 0, done.stderr
    assert "tiny is up" in done.stdout
    assert kit.pid != before
    assert not alive(before)
    assert context_of(kit) == 64


def test_every_change_may_leave_the_exercise_out(kit: Kit) -> None:
    assert json.loads(kit.up("--context", "64", "--json").stdout)["work"]
    commands = [("restart",), ("upgrade", "--context", "128"), ("rollback",)]
    for command in commands:
        told = json.loads(kit(*command, "--no-exercise", "--json").stdout)
        assert (told["started"], told["work"]) == (True, None), command
        assert told["skipped"] == "as was asked for"
    assert json.loads(kit("restart", "--json").stdout)["work"]


def test_restart_heals_what_died(kit: Kit) -> None:
    kit.up()
    kill(kit.pid)
    assert kit("restart").returncode == 0
    assert kit("status").returncode == 0


@pytest.mark.parametrize("command", ["restart", "upgrade", "rollback"])
def test_without_a_service_there_is_nothing_to_change(kit: Kit, command: str) -> None:
    done = kit(command)
    assert done.returncode == 6
    assert "hint: " in done.stderr


def test_upgrade_changes_what_is_named_and_keeps_the_rest(kit: Kit) -> None:
    kit.up("--context", "64", "--max-sequences", "3", "--name", "mine")
    done = kit("upgrade", "--context", "128", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["context_length"], report["max_sequences"], report["model"]) == (128, 3, "mine")
    again = json.loads(kit("upgrade", "--json").stdout)
    assert (again["started"], again["pid"]) == (False, report["pid"])


def test_a_new_version_of_the_kit_is_an_upgrade(kit: Kit) -> None:
    kit.up()
    state = json.loads(kit.state_file.read_text())
    state["spec"]["kit_version"] = "0.0.1"
    kit.state_file.write_text(json.dumps(state))
    before = kit.pid
    done = kit("upgrade")
    assert done.returncode == 0, done.stderr
    assert "other settings (kit version)" in done.stderr
    assert kit.pid != before


def other_model(model_dir: Path, how: str) -> str:
    """Weights that the stand-in does not serve well: ``broken`` or ``heavy``."""
    weights = model_dir.with_name("other")
    shutil.copytree(model_dir, weights)
    (weights / how).touch()
    return str(weights)


def test_an_upgrade_that_dies_goes_back(kit: Kit, model_dir: Path) -> None:
    kit.up()
    done = kit("upgrade", "--model", other_model(model_dir, "broken"))
    assert done.returncode == 6, done.stderr
    assert "going back to tiny in a local process" in done.stderr
    assert "RuntimeError: boom; tiny in a local process is back" in done.stderr
    assert kit("status").returncode == 0
    assert "tiny" in kit("status").stdout


def test_an_upgrade_over_its_budget_goes_back(kit: Kit, model_dir: Path) -> None:
    kit.up()
    done = kit("upgrade", "--model", other_model(model_dir, "heavy"))
    assert done.returncode == 5
    assert "is back" in done.stderr
    assert kit("status").returncode == 0


@pytest.mark.parametrize("command", ["upgrade", "up"])
def test_a_plan_over_the_budget_takes_nothing_down(kit: Kit, command: str) -> None:
    kit.up()
    before = kit.pid
    done = kit(command, "--max-ram", "100MiB")
    assert done.returncode == 3
    assert re.search(r"the plan is 0\.4\d GiB host RAM, over the budget of 100\.0 MiB", done.stderr)
    assert "the service that was running goes on" in done.stderr
    assert kit.pid == before
    assert alive(before)


def test_what_held_a_budget_below_its_plan_may_do_so_again(kit: Kit) -> None:
    """The stand-in takes less than is planned."""
    assert kit.up("--max-ram", "200MiB").returncode == 0
    assert kit("restart").returncode == 0
    assert kit("upgrade", "--max-ram", "1GiB").returncode == 0
    assert kit("rollback").returncode == 0
    assert kit("upgrade", "--max-ram", "199MiB").returncode == 3


def test_a_local_process_has_no_image_to_upgrade(kit: Kit) -> None:
    kit.up()
    before = kit.pid
    for options in (("--image", "spark-kit:new"), ("--pull",)):
        done = kit("upgrade", *options)
        assert done.returncode == 2, options
        assert "is a local process" in done.stderr
        assert "hint: leave --image and --pull out" in done.stderr
    assert kit("upgrade", KIT_IMAGE="spark-kit:new").returncode == 0
    assert kit.pid == before


def test_an_upgrade_that_cannot_start_changes_nothing(kit: Kit) -> None:
    kit.up()
    before = kit.pid
    done = kit("upgrade", "--model", "nowhere")
    assert done.returncode == 3
    assert "going back" not in done.stderr
    assert kit.pid == before


def test_rollback_goes_to_and_fro(kit: Kit) -> None:
    kit.up()
    assert kit("rollback").returncode == 6  # there was nothing before
    kit.up("--context", "64")
    done = kit("rollback")
    assert done.returncode == 0, done.stderr
    assert "(context)" in done.stderr
    assert context_of(kit) == 256
    assert kit("rollback").returncode == 0
    assert context_of(kit) == 64
    kit("down")
    assert kit("rollback").returncode == 0
    assert context_of(kit) == 256


def test_a_service_with_a_key_is_not_restarted_without_one(kit: Kit) -> None:
    kit.up(KIT_API_KEY="secret-1")
    before = kit.pid
    done = kit("restart")
    assert done.returncode == 2
    assert "set KIT_API_KEY" in done.stderr
    assert kit.pid == before
    assert kit("restart", KIT_API_KEY="secret-2").returncode == 0


def test_dry_run_shows_everything_and_does_nothing(kit: Kit) -> None:
    done = kit.up("--dry-run", "--context", "64")
    assert done.returncode == 0, done.stderr
    assert "--context 64" in done.stdout
    assert "host RAM: 0.4" in done.stdout
    assert re.search(r"GiB +runtime \(measured\)", done.stdout)
    assert not kit.state_file.parent.exists()
    kit.up()
    record = json.loads(kit.up("--dry-run", "--json", "--context", "64").stdout)
    assert "(context)" in record["reason"]
    assert record["steps"][0]["command"] == ["kit", "down"]
    assert context_of(kit) == 256


def test_dry_run_tells_what_would_stop_it(kit: Kit) -> None:
    done = kit.up("--dry-run", prefix="ulimit -v 1500000;")
    assert done.returncode == 3
    assert "It would run:" in done.stdout
    assert "address space" in done.stderr


def test_support_bundle(kit: Kit, tmp_path: Path) -> None:
    kit.up(KIT_API_KEY="very-secret-key")
    path = tmp_path / "help.tar.gz"
    environ = {"KIT_API_KEY": "very-secret-key", "HOME": str(tmp_path), "USER": "lihua"}
    done = kit("support-bundle", "-o", str(path), **environ)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        texts = {
            member.name.partition("/")[2]: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive
        }
    expected = {"contents.txt", "versions.json", "settings.json", "status.json", "log.txt"}
    expected |= {"kit.lock", "service.json", "history.json", "plan.json", "doctor.json"}
    assert set(texts) == expected
    for name in expected:
        assert name in done.stdout
    everything = "\n".join(texts.values())
    assert "very-secret-key" not in everything
    assert str(tmp_path) not in everything
    assert json.loads(texts["status.json"])["state"] == "ready"
    assert json.loads(texts["plan.json"])["lines"]
    assert json.loads(texts["doctor.json"])["findings"]
    assert "/health/ready" in texts["log.txt"]


def test_support_bundle_before_anything_was_started(kit: Kit, tmp_path: Path) -> None:
    done = kit("support-bundle", "--json", "-o", str(tmp_path / "help.tar.gz"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"]["status.json"]
