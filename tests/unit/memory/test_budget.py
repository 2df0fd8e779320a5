import pytest

from kit.errors import BudgetExceeded
from kit.memory.budget import Budget, Measured, assess, default_ram_budget, require
from kit.memory.unavailable import Unavailable
from kit.units import GIB, MIB

NO_GPU = Unavailable("the model runs on the CPU")


def test_within():
    verdicts = assess(Budget(2 * GIB, 30 * GIB), Measured(2 * GIB, 29 * GIB))
    assert [str(verdict) for verdict in verdicts] == [
        "peak host RAM 2.00 GiB within 2.00 GiB",
        "peak VRAM 29.00 GiB within 30.00 GiB",
    ]
    require(verdicts)


def test_breach_names_figure_excess_and_flag():
    with pytest.raises(BudgetExceeded) as caught:
        require(assess(Budget(2 * GIB, 30 * GIB), Measured(1 * GIB, 31 * GIB)))
    assert caught.value.message == "peak VRAM 31.00 GiB, 1.00 GiB over the budget of 30.00 GiB"
    assert "--max-vram" in caught.value.hint
    assert "--max-ram" not in caught.value.hint
    assert caught.value.exit_code == 5


def test_one_byte_over_is_over():
    (verdict,) = assess(Budget(GIB, None), Measured(GIB + 1, NO_GPU))
    assert not verdict.passed


def test_what_was_promised_and_not_measured_is_a_failure():
    verdicts = assess(Budget(GIB, GIB), Measured(1, Unavailable("NVML is silent")))
    with pytest.raises(
        BudgetExceeded, match=r"VRAM could not be measured \(NVML is silent\)"
    ) as caught:
        require(verdicts)
    assert "kit memory assert" in caught.value.hint
    assert "allow more" not in caught.value.hint


def test_vram_is_not_promised_on_a_cpu():
    verdicts = assess(Budget(GIB, None), Measured(1, NO_GPU))
    assert [verdict.pool.label for verdict in verdicts] == ["host RAM"]
    require(verdicts)


def test_default_ram_budget_leaves_the_libraries_some_room():
    assert default_ram_budget(400 * MIB) == 656 * MIB
    assert default_ram_budget(8 * GIB) == 10 * GIB


def test_a_model_on_the_cpu_has_no_promise_of_vram() -> None:
    assert Budget(1, 2).on("cpu") == Budget(1, None)
    assert Budget(1, 2).on("cuda:0") == Budget(1, 2)
