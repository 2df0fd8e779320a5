"""The answers of `kit memory plan`: for people, 80 columns wide, and as JSON."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kit.cli.memory.plan_question import Question
from kit.cli.render import print_record, print_table
from kit.commands import command
from kit.errors import EnvironmentNotReady
from kit.memory.plan.fit import Fitting, Option, options, smallest
from kit.memory.plan.line import Phase, Plan, PlanLine, Pool
from kit.memory.room import Room
from kit.units import format_gib
from kit.weights.planned import DEMO, PUBLISHED, with_disk

_WIDTH = 80
_LETTERS = {Phase.CONVERT: "C", Phase.LOAD: "L", Phase.SERVE: "S"}
_LEGEND = "C while converting, L while loading, S while serving"


def show_plan(question: Question) -> None:
    """Print the plan, and check it against the budgets that were given.

    Raises:
        EnvironmentNotReady: it passes one of them.
    """
    plan = question.plan()
    budgets = _budgets(question, plan)
    if question.as_json:
        print_record(_record(question, plan, budgets))
    else:
        console = _console()
        _print_plan(console, question, plan, f"{question.planned.name} in {_precision(question)}")
        for room in budgets:
            if room.problem is None:
                left = format_gib(room.free_bytes - room.need_bytes)  # type: ignore[operator]
                console.print(f"fits {room.what}: {left} to spare")
    problems = [room.problem for room in budgets if room.problem]
    if problems:
        raise EnvironmentNotReady(
            "; ".join(problems), hint="kit memory plan --fit SIZE says what fits into that much"
        )


def show_fit(question: Question, room: str, *, verbose: bool) -> None:
    """Print the best that fits, what else does, and how to have it: on one screen, 24 lines.

    Args:
        question: what is to be fitted.
        room: into how much: a size, or ``free``.
        verbose: print every line of the plan, however long that is.

    Raises:
        EnvironmentNotReady: nothing does.
    """
    fitting, shapes = question.fitting(room), question.candidates()
    found = options(fitting, shapes)
    if question.as_json:
        print_record(
            {
                "model": question.planned.name,
                "room_bytes": fitting.room_bytes,
                "device": fitting.device,
                "engine": fitting.engine,
                "best": _option_record(found[0]) if found else None,
                "options": [_option_record(option) for option in found],
            }
        )
    if not found:
        least = smallest(fitting, shapes)
        raise EnvironmentNotReady(
            f"nothing of {question.planned.name} fits {format_gib(fitting.room_bytes)}: "
            f"{least.precision} with {least.plan.context} tokens of context takes "
            f"{format_gib(least.peak_bytes)}",
            hint="take a larger GPU, or serve on the CPU: --device cpu"
            if fitting.device == "cuda"
            else "take a machine with more memory",
        )
    if not question.as_json:
        best = found[0]
        plan = with_disk(question.planned, shapes[best.precision], best.plan)
        console = _console()
        console.print(f"The best that fits {format_gib(fitting.room_bytes)}:")
        what = f"{question.planned.name} in {best.precision}"
        if verbose:
            _print_plan(console, question, plan, what)
        else:
            _print_heading(console, plan, what)
            print_table(console, _peaks(plan))
        print_table(console, _other_options(fitting, found, shapes))
        _print_commands(console, question, best)


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return Console(highlight=False, markup=False, width=min(console.width, _WIDTH))


def _precision(question: Question) -> str:
    if question.dtype_bytes in (None, question.shape.dtype_bytes):
        return question.shape.precision
    return f"{question.shape.precision}, cast to {question.dtype_bytes} bytes,"


def _print_plan(console: Console, question: Question, plan: Plan, what: str) -> None:
    _print_heading(console, plan, what)
    for pool in Pool:
        lines = [line for line in plan.lines if line.pool is pool]
        if lines:
            print_table(console, _pool_table(question, plan, pool, lines))
    console.print(Text(f"\n{_LEGEND}", style="dim"))


def _print_heading(console: Console, plan: Plan, what: str) -> None:
    where = "a GPU" if plan.device == "cuda" else "the CPU"
    if plan.ranks > 1:
        where = f"{plan.ranks} GPUs" if plan.device == "cuda" else f"the CPU, {plan.ranks} ranks"
    console.print(Text(f"{what} on {where}, {plan.engine} engine", style="bold"))
    console.print(f"{plan.context} tokens of context, {plan.max_sequences} at once")


def _peaks(plan: Plan) -> Table:
    """The peak of each pool."""
    table = Table(title="\npeaks", title_justify="left", title_style="bold", box=None)
    table.pad_edge, table.show_header = False, False
    for pool in Pool:
        if peak := plan.peak_bytes(pool):
            phase = _doing(plan.peak_phase(pool))
            why = f"while {phase}" if pool is not Pool.DISK else "at most"
            table.add_row(pool.label, format_gib(peak), why)
    return table


def _print_commands(console: Console, question: Question, best: Option) -> None:
    """What to run to have it; nothing for a model that is only described."""
    commands = _commands(question, best)
    if commands:
        console.print(Text("\nto serve it", style="bold"))
    for line in commands:
        console.print(f"  {line}", soft_wrap=True)


def _commands(question: Question, best: Option) -> list[str]:
    target, planned, engine = question.target, question.planned, question.engine
    if engine not in ("native", "megatron"):  # which kit up does not start
        return []
    if target is None:
        if planned.name != PUBLISHED:
            return []
        target = PUBLISHED
    limits = ["--context", str(best.plan.context)]
    if engine == "native":
        limits += ["--max-sequences", str(best.plan.max_sequences)]
    if best.plan.device == "cpu":
        limits += ["--device", "cpu"]
    precision = ("--precision", best.precision)
    if planned.converted is not None or target == DEMO:  # which kit up converts by itself
        return [command("kit up --model", target, *limits)]
    if question.named:
        convert = ("--convert", *precision) if engine == "native" else ()
        fetch = command("kit weights fetch", target, *convert)
        chosen = () if engine == "native" else ("--engine", engine)
        return [fetch, command("kit up --model", target, *chosen, *limits)]
    if engine == "megatron":
        return [command("kit up --engine megatron --model", target, *limits)]
    output = f"{planned.name}-{best.precision}"
    convert_it = command("kit weights convert", target, output, *precision)
    return [convert_it, command("kit up --model", output, *limits)]


def _pool_table(question: Question, plan: Plan, pool: Pool, lines: list[PlanLine]) -> Table:
    table = Table(title=f"\n{pool.label}", title_justify="left", title_style="bold", box=None)
    table.pad_edge, table.show_header = False, False
    table.add_column(no_wrap=True, min_width=18)
    table.add_column(justify="right", no_wrap=True, min_width=9)
    table.add_column(no_wrap=True, min_width=3)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold", style="dim")
    for line in lines:
        _add(table, line)
    peak, phase = plan.peak_bytes(pool), plan.peak_phase(pool)
    why = f"while {_doing(phase)}" if pool is not Pool.DISK else "at most"
    table.add_row("peak", format_gib(peak), _LETTERS[phase], "", why, style="bold")
    if pool is Pool.DEVICE and plan.ranks > 1:
        table.add_row("each GPU", format_gib(peak // plan.ranks), "", "", "its share of the peak")
    if (neighbours := question.neighbours(pool)) is not None:
        _add(table, neighbours.line)
        left = neighbours.free_bytes - peak
        fits = f"{format_gib(abs(left))} {'to spare' if left >= 0 else 'too little'}"
        size = format_gib(neighbours.free_bytes)
        table.add_row("free here", size, "", "", f"{neighbours.what}: {fits}")
    return table


def _add(table: Table, line: PlanLine) -> None:
    letters = "".join(_LETTERS[phase] if phase in line.phases else " " for phase in Phase)
    table.add_row(line.name, format_gib(line.size_bytes), letters, str(line.basis), line.why)


def _doing(phase: Phase) -> str:
    return {Phase.CONVERT: "converting", Phase.LOAD: "loading", Phase.SERVE: "serving"}[phase]


def _other_options(fitting: Fitting, found: tuple[Option, ...], shapes: dict[str, Any]) -> Table:
    """How many sequences fit, by precision and context."""
    contexts = sorted({o.plan.context for o in found} & {*fitting.contexts})
    table = Table(title="\nall that fits, at once", title_justify="left", box=None)
    table.title_style, table.pad_edge = "bold", False
    table.add_column("tokens of context", no_wrap=True)
    for context in contexts:
        table.add_column(str(context), justify="right")
    counts = {(o.precision, o.plan.context): str(o.plan.max_sequences) for o in found}
    for precision in shapes:
        table.add_row(precision, *(counts.get((precision, context), "–") for context in contexts))
    return table


def _budgets(question: Question, plan: Plan) -> list[Room]:
    given = ((Pool.DEVICE, question.max_vram_bytes), (Pool.HOST, question.max_ram_bytes))
    return [
        Room(f"{pool.label} ({pool.flag})", allowed, plan.peak_bytes(pool), "")
        for pool, allowed in given
        if allowed is not None
    ]


def _record(question: Question, plan: Plan, budgets: list[Room]) -> dict[str, Any]:
    pools = [pool for pool in Pool if plan.peak_bytes(pool)]
    found = {pool.value: question.neighbours(pool) for pool in pools}
    return {
        "model": question.planned.name,
        "precision": question.shape.precision,
        **asdict(plan),
        "peak_bytes": {pool.value: plan.peak_bytes(pool) for pool in pools},
        "phase_bytes": {
            pool.value: {phase.value: plan.phase_bytes(pool, phase) for phase in Phase}
            for pool in pools
        },
        "here": {
            name: {"total_bytes": each.total_bytes, "others_bytes": each.line.size_bytes}
            for name, each in found.items()
            if each is not None
        },
        "budgets": [
            {
                "what": room.what,
                "budget_bytes": room.free_bytes,
                "need_bytes": room.need_bytes,
                "fits": room.problem is None,
            }
            for room in budgets
        ],
    }


def _option_record(option: Option) -> dict[str, Any]:
    return {
        "precision": option.precision,
        "context": option.plan.context,
        "max_sequences": option.plan.max_sequences,
        "peak_bytes": option.peak_bytes,
    }
