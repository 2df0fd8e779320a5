"""Lines of progress where stderr is no terminal."""

import re

import pytest

from kit.cli import transfer
from kit.cli.transfer import TransferView
from kit.units import MIB


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time: add to it."""
    now = [100.0]
    monkeypatch.setattr(transfer.time, "monotonic", lambda: now[0])
    return now


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_amount_rate_and_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with TransferView("fetching x") as view:
        progress = view.watch().progress
        progress(10 * MIB, 100 * MIB)
        clock[0] += 1
        progress(11 * MIB, 100 * MIB)
        clock[0] += 19
        progress(50 * MIB, 100 * MIB)
        clock[0] += 20
        progress(100 * MIB, 100 * MIB)
        progress(100 * MIB, 100 * MIB)
    assert lines(capsys) == [
        "fetching x: 50.0 MiB of 100.0 MiB (50%), 2.0 MiB/s, 25 s left",
        "fetching x: 100.0 MiB of 100.0 MiB (100%), 2.2 MiB/s",
    ]


def test_the_average_of_what_is_over_at_once(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with TransferView("fetching x") as view:
        view.watch().progress(0, 3 * MIB)
        clock[0] += 0.5
        view.watch().progress(3 * MIB, 3 * MIB)
    assert lines(capsys) == ["fetching x: 3.0 MiB of 3.0 MiB (100%), 6.0 MiB/s"]


def test_no_rate_where_nothing_was_left_to_do(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with TransferView("fetching x") as view:
        view.watch().progress(3 * MIB, 3 * MIB)
        view.watch().progress(3 * MIB, 3 * MIB)
    assert lines(capsys) == ["fetching x: 3.0 MiB of 3.0 MiB (100%)"]


def test_what_starts_over_has_no_negative_rate(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with TransferView("fetching x") as view:
        view.watch().progress(90 * MIB, 100 * MIB)
        clock[0] += 20
        view.watch().progress(0, 100 * MIB)
        clock[0] += 20
        view.watch().progress(20 * MIB, 100 * MIB)
    assert [re.findall(r"[-\d.]+ MiB/s", line) for line in lines(capsys)] == [
        ["0.0 MiB/s"],
        ["1.0 MiB/s"],
    ]


def test_an_unknown_size(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with TransferView("fetching x") as view:
        view.watch().progress(0, 0)
        clock[0] += 20
        view.watch().progress(20 * MIB, 0)
    assert lines(capsys)[-1] == "fetching x: 20.0 MiB, 1.0 MiB/s"
