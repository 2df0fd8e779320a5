"""What a server or a folder may hold in place of a file: a web page, or a pointer of git LFS."""

START_BYTES = 512
"""From so many first bytes it is told."""

_PAGE = (b"<!doctype html", b"<html")
_POINTER = b"version https://git-lfs.github.com/spec/"


def is_page(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is a web page."""
    return start.lstrip()[:14].lower().startswith(_PAGE)


def is_pointer(start: bytes) -> bool:
    """Whether it is the pointer that git keeps in place of a file in LFS."""
    return start.startswith(_POINTER)
