import socket
from dataclasses import replace

import pytest

from kit.doctor.facts import Facts
from kit.doctor.gather import service
from kit.doctor.request import Request
from kit.runtime.local import LocalRuntime
from kit.settings import Settings


@pytest.fixture
def request_(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Request(Settings(tmp_path, tmp_path, port=port))


def test_nothing_runs(request_, tmp_path):
    found = service.look(replace(request_, runtimes={"local": LocalRuntime(tmp_path)}), Facts())
    assert (found.state, found.port_problem, found.device) == ("stopped", None, None)
    assert found.detail.startswith("not running")


def test_another_program_holds_the_port(request_):
    with socket.create_server(("127.0.0.1", request_.settings.port)):
        found = service.look(request_, Facts())
    assert f"port {request_.settings.port} is not free" in found.port_problem
    assert "kit up --port" in found.port_remedy


def test_an_address_of_another_machine(request_):
    settings = replace(request_.settings, host="192.0.2.1")
    found = service.look(replace(request_, settings=settings), Facts())
    assert "not an address of this machine" in found.port_problem
