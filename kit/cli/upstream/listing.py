"""`kit upstream list`."""

from textwrap import fill
from typing import TYPE_CHECKING, Any

from kit.cli.output import print_record
from kit.cli.upstream.options import Json, Lock_, read_settings

if TYPE_CHECKING:
    from kit.upstream.listing import Listed

_WRAPPED: Any = {
    "initial_indent": " " * 6,
    "subsequent_indent": " " * 8,
    "break_long_words": False,
    "break_on_hyphens": False,
}


def list_(lock: Lock_ = None, as_json: Json = False) -> None:
    """Show every rewrite, and how it stands.

    It fits the pristine tree, is applied in the rewritten one, or has drifted.
    """
    from kit.upstream.listing import list_rewrites

    listed = list_rewrites(read_settings(lock))
    if as_json:
        print_record(_record(listed))
    else:
        _print(listed)


def _record(listed: "list[Listed]") -> dict[str, Any]:
    from kit.upstream.selection import DEFAULT_GROUPS, MEANING, rewrite_digest, select

    return {
        "digest": rewrite_digest(select()),
        "groups": {
            group: {"what": what, "default": group in DEFAULT_GROUPS}
            for group, what in MEANING.items()
        },
        "rewrites": [
            {
                "name": each.rewrite.name,
                "group": each.rewrite.group,
                "why": each.rewrite.why,
                "retire_when": each.rewrite.retire_when,
                "files": sorted(each.rewrite.edits),
                "adds": each.rewrite.adds,
                "standing": each.standing,
                "drift": each.drift,
            }
            for each in listed
        ],
    }


def _print(listed: "list[Listed]") -> None:
    from rich.console import Console

    from kit.upstream.selection import DEFAULT_GROUPS, MEANING

    console = Console(highlight=False, markup=False)
    for group, what in MEANING.items():
        default = "by default" if group in DEFAULT_GROUPS else "on request"
        console.print(f"{group} ({default}): {what}", style="bold")
        for each in (each for each in listed if each.rewrite.group == group):
            rewrite = each.rewrite
            console.print(f"\n  {rewrite.name} - {each.standing}")
            for line in (
                f"why: {rewrite.why}",
                f"where: {', '.join(sorted(rewrite.edits))}",
                f"retire when: {rewrite.retire_when}",
                *each.drift,
            ):
                print(fill(line, console.width, **_WRAPPED))
        console.print()
