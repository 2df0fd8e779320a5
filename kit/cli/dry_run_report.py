"""What `kit up --dry-run` prints: for people, and as JSON."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kit.cli.render import Terminal, print_record
from kit.memory.plan.line import Pool
from kit.runtime.protocol import Launch
from kit.runtime.state import spec_record
from kit.service.dry_run import DryRun, dry_run
from kit.units import format_gib

if TYPE_CHECKING:
    from kit.runtime.protocol import Runtime, RuntimeName
    from kit.service.intent import UpOptions


def show(options: "UpOptions", runtimes: "Mapping[RuntimeName, Runtime]", *, as_json: bool) -> None:
    """Print what `kit up` would do with ``options``."""
    with Terminal() as terminal:
        found = dry_run(options, runtimes, terminal, environ=os.environ)
    if as_json:
        print_record(_record(found))
    else:
        print_text(found)
    if found.refusal is not None:
        raise found.refusal


def print_text(found: DryRun) -> None:
    """The same for people; the commands can be pasted."""
    console = Console(highlight=False, markup=False)
    for line in _lines(found):
        console.print(line, soft_wrap=True)


def _record(found: DryRun) -> dict[str, Any]:
    intent = found.intent
    return {
        "runtime": intent.runtime,
        "spec": spec_record(intent.spec),
        "converts_demo": not intent.model.ready,
        "image": intent.image.name if intent.image else None,
        "image_is_here": intent.spec.image is not None if intent.image else None,
        "runs": found.runs,
        "reason": found.reason,
        "plan": {
            "lines": [asdict(line) for line in intent.plan.lines],
            "peak_bytes": {pool.value: intent.plan.peak_bytes(pool) for pool in Pool},
        },
        "steps": [{"command": s.command, "variables": dict(s.variables)} for s in found.steps],
    }


def _lines(found: DryRun) -> Iterator[str]:
    intent, spec = found.intent, found.intent.spec
    yield "kit up would serve"
    first = "" if intent.model.ready else ", converted first"
    yield f"  model     {spec.name} ({spec.model_dir}{first})"
    yield (
        f"  with      {spec.context} tokens of context, {spec.max_sequences} at once, "
        f"engine {spec.engine}, on {spec.device}"
    )
    yield f"  at        {spec.host} port {spec.port}"
    yield f"  in        {_where(found)}"
    if found.reason is not None:
        yield f"  although  {found.reason}"
    yield from _memory(found)
    if not found.steps:
        yield f"\nNothing to do: it runs already ({found.runs})."
        return
    yield "\nIt would run:"
    for step in found.steps:
        yield from _command(step, with_key=spec.api_key_digest is not None)


def _where(found: DryRun) -> str:
    image = found.intent.image
    if image is None:
        return "a local process"
    if found.intent.spec.image is not None:
        return f"a container of {image.name}, which is here"
    return f"a container of {image.name}, to be {'pulled' if image.named else 'built'}"


def _memory(found: DryRun) -> Iterator[str]:
    intent, spec = found.intent, found.intent.spec
    yield "\nMemory plan"
    for pool in (Pool.HOST, Pool.DEVICE):
        budget = spec.budget.of(pool)
        lines = [line for line in intent.plan.lines if line.pool is pool]
        if not lines:
            continue
        limit = f", budget {format_gib(budget)}" if budget else ""
        yield f"  {pool.label}: {format_gib(intent.plan.peak_bytes(pool))} at its peak{limit}"
        for line in lines:
            yield f"    {format_gib(line.size_bytes):>10}  {line.name} ({line.basis})"


def _command(step: Launch, *, with_key: bool) -> Iterator[str]:
    """One command as a shell takes it, a variable a line."""
    variables = [f"{name}={_quoted(text)}" for name, text in step.variables.items()]
    if variables and with_key:
        variables.append('KIT_API_KEY="$KIT_API_KEY"')
    yield ""
    for variable in variables:
        yield f"  {variable} \\"
    yield f"  {shlex.join(step.command)}"


def _quoted(text: str) -> str:
    """As a shell takes it; what stands for another variable, whose value is not shown, as such."""
    return f'"{text}"' if re.fullmatch(r"\$\w+", text) else shlex.quote(text)
