"""What README and docs tell users to type exists, and their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from kit.cli.main import app
from kit.containers.image import checkout

PAGES = sorted(
    [*checkout().glob("README*.md"), checkout() / "CONTRIBUTING.md", *checkout().glob("docs/*.md")]
)
COMMAND = re.compile(r"(?:^\$ |`|^ExecStart=\S*/)(kit [a-z][^`\n#|>&]*)", re.MULTILINE)
CHINESE = sorted(checkout().glob("docs/*.zh-CN.md"))
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def unknown(line: str) -> list[str]:
    """The subcommand or the options in ``line`` that the command line does not have."""
    words = shlex.split(line.rstrip("\\ "))[1:]
    command = typer.main.get_command(app)
    while words and (below := getattr(command, "commands", None)) is not None:
        if words[0] not in below:
            return words[:1]
        command = below[words.pop(0)]
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    asked = {word.strip("[],.").partition("=")[0] for word in words if word.startswith("--")}
    return sorted(asked - known - {"--help", "--"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not [(line, wrong) for line in COMMAND.findall(text) if (wrong := unknown(line))]
    assert not [link for link in LINK.findall(text) if not (page.parent / link).exists()]


def test_chinese_pages_are_among_those_checked() -> None:
    assert CHINESE
    assert set(CHINESE) <= set(PAGES)


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_chinese_pages_show_the_same_commands_and_output(page: Path) -> None:
    english = page.with_name(page.name.replace(".zh-CN", "")).read_text(encoding="utf-8")
    shown = FENCED.findall(english)
    assert shown
    assert FENCED.findall(page.read_text(encoding="utf-8")) == shown


def test_what_is_not_there_is_found() -> None:
    assert unknown("kit nonsense --json") == ["nonsense"]
    assert unknown("kit memory plan --fit 24GiB --wrong 1") == ["--wrong"]
