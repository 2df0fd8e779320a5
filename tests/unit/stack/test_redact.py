import socket

import pytest

from kit.stack.redact import Redactor, redactor

ENVIRON = {
    "HOME": "/home/ming",
    "USER": "ming",
    "KIT_API_KEY": "abcd-1234",
    "OPENI_TOKEN": "tok-999",
    "SHORT_KEY": "no",
    "PATH": "/usr/bin",
}


def test_what_is_known_here_is_replaced():
    redact = redactor(ENVIRON)
    text = f"key abcd-1234 tok-999 of ming at /home/ming/data on {socket.gethostname()}, no"
    found = redact(text)
    assert found.startswith("key <KIT_API_KEY> <OPENI_TOKEN> of <user> at ~/data on ")
    assert found.endswith(" on <host>, no")


def test_names_are_replaced_as_words():
    redact = Redactor({}, {"vm": "<host>", "ming": "<user>"})
    text = "vm: nvm, vm-2, ming owns ming/x and coming"
    assert redact(text) == "<host>: nvm, vm-2, <user> owns <user>/x and coming"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer eyJ.a-b_c", "Authorization: Bearer <redacted>"),
        ("https://me:pass@mirror.example/x", "https://<redacted>@mirror.example/x"),
        ("hf_abcdefghijkl and sk-abcdefgh12", "<redacted> and <redacted>"),
        ('"api_key": "s3cr3t!"', '"api_key": "<redacted>"'),
        ('"api_key_digest": null', '"api_key_digest": null'),
        ("GITEE_TOKEN=s3cr3t", "GITEE_TOKEN=<redacted>"),
        ("/home/li/model and /Users/wang/x", "/home/<user>/model and /Users/<user>/x"),
        ("/data/home/models/x", "/data/home/models/x"),
        ("10.20.30.40 POST", "<address> POST"),
        ("127.0.0.1 and 0.0.0.0", "127.0.0.1 and 0.0.0.0"),
        ("driver 580.65.06, torch 2.10.0", "driver 580.65.06, torch 2.10.0"),
        ("64 tokens of context", "64 tokens of context"),
    ],
)
def test_what_looks_private_is_replaced(text, expected):
    assert Redactor({}, {})(text) == expected
