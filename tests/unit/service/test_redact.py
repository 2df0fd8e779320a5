import json
import socket
import urllib.parse

import pytest

from kit.service.support_bundle import Redactor, is_secret, redactor

ENVIRON = {
    "HOME": "/home/ming",
    "USER": "ming",
    "KIT_API_KEY": "abcd-1234",
    "OPENI_TOKEN": "tok-999",
    "SHORT_KEY": "no",
    "LITTLE_KEY": "x9z",
    "PATH": "/usr/bin",
}


def test_what_is_known_here_is_replaced():
    redact = redactor(ENVIRON)
    text = (
        f"key abcd-1234 tok-999 of ming at /home/ming/data on {socket.gethostname()}, x9z x9zz no"
    )
    found = redact(text)
    assert found.startswith("key <KIT_API_KEY> <OPENI_TOKEN> of <user> at ~/data on ")
    assert found.endswith(" on <host>, <LITTLE_KEY> x9zz no")


@pytest.mark.parametrize("secret", ['pw"x9word', 'long"token"rest', "it's\\$one", "schlüssel\tx"])
def test_a_secret_is_found_however_it_is_written(secret):
    redact = redactor({"HOME": "/", "KIT_API_KEY": secret})
    for written in (
        secret,
        json.dumps({"a": secret}),
        json.dumps({"a": secret}, ensure_ascii=False),
        repr([secret]),
        "https://host/x/" + urllib.parse.quote(secret),
        secret.replace("$", "$$"),
    ):
        assert redact(written).count("<KIT_API_KEY>") == 1
        assert redact(written).replace("<KIT_API_KEY>", secret).count(secret) == 1


@pytest.mark.parametrize("name", ["KIT_API_KEY", "HF_TOKEN", "PIP_PASSWORD", "X_CREDENTIALS"])
def test_what_a_variable_that_holds_a_secret_is_called(name):
    assert is_secret(name)
    assert not is_secret("TOKENIZERS_PARALLELISM")


def test_names_are_replaced_as_words():
    redact = Redactor({}, {"vm": "<host>", "ming": "<user>"})
    text = "vm: nvm, vm-2, ming owns ming/x and coming"
    assert redact(text) == "<host>: nvm, vm-2, <user> owns <user>/x and coming"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer eyJ.a-b_c", "Authorization: Bearer <redacted>"),
        ("https://me:pass@mirror.example/x", "https://<redacted>@mirror.example/x"),
        ("PIP_INDEX_URL=https://deploytoken@host/x", "PIP_INDEX_URL=https://<redacted>@host/x"),
        ("https://oauth2:a@b@host.example/x", "https://<redacted>@host.example/x"),
        ("git+ssh://me@host/x and me@host", "git+ssh://<redacted>@host/x and me@host"),
        ("https://host/x?X-Amz-Signature=1f&a=b 403", "https://host/x?<redacted> 403"),
        ('"https://host/x?abc"', '"https://host/x?<redacted>"'),
        ("GET /x?sig=1f HTTP/1.1", "GET /x?<redacted> HTTP/1.1"),
        ("is there a /model? yes", "is there a /model? yes"),
        ("hf_abcdefghijkl and sk-abcdefgh12", "<redacted> and <redacted>"),
        ('"api_key": "s3cr3t!"', '"api_key": "<redacted>"'),
        ('"api_key": "s3\\"cr 3t!", "x": 1', '"api_key": "<redacted>", "x": 1'),
        ("KIT_API_KEY: abc", "KIT_API_KEY: <redacted>"),
        ("KIT_API_KEY='a'", "KIT_API_KEY='<redacted>'"),
        ('"api_key_digest": null', '"api_key_digest": null'),
        ("GITEE_TOKEN=s3cr3t", "GITEE_TOKEN=<redacted>"),
        ("/home/li/model and /Users/wang/x", "/home/<user>/model and /Users/<user>/x"),
        ("/data/home/models/x", "/data/home/models/x"),
        ("10.20.30.40 POST", "<address> POST"),
        ("127.0.0.1 and 0.0.0.0", "127.0.0.1 and 0.0.0.0"),
        ("fe80::1ff:fe23:4567:890a%eth0: lost", "<address>%eth0: lost"),
        ("[2001:db8::7]:8000, 2001:db8:0:1:2:3:4:5:54321 -", "[<address>]:8000, <address>:54321 -"),
        ('"a\\n2001:db8::7 b"', '"a\\n<address> b"'),
        ("::1, :: and [::]:8000", "::1, :: and [::]:8000"),
        ("at 12:34:56, T12:34:56Z, 00000000:01:00.0", "at 12:34:56, T12:34:56Z, 00000000:01:00.0"),
        ("std::add, c10::cuda, sha256:ab:cd", "std::add, c10::cuda, sha256:ab:cd"),
        ("driver 580.65.06, torch 2.10.0", "driver 580.65.06, torch 2.10.0"),
        ("64 tokens of context", "64 tokens of context"),
    ],
)
def test_what_looks_private_is_replaced(text, expected):
    assert Redactor({}, {})(text) == expected
