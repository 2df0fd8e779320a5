from kit.weights.fetch.ask import is_page, is_pointer


def test_pages() -> None:
    for page in (b"<!DOCTYPE html>", b"\r\n <html lang=en>", b"<HTML>"):
        assert is_page(page)
    for other in (b"", b"<", b"PK\x03\x04", b'<?xml version="1.0"?>', b"html"):
        assert not is_page(other)


def test_pointers() -> None:
    assert is_pointer(b"version https://git-lfs.github.com/spec/v1\noid sha256:")
    assert not is_pointer(b"version 1")
