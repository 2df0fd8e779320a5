"""A real HTTP server for tests of downloads. It can be told to misbehave, request by request."""

import os
import re
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_PROXY", "127.0.0.1")  # whatever proxy the machine has is not for tests

Act = Callable[["Exchange"], None]


@dataclass
class Served:
    """A file at the server. ``ranges`` off: every answer is the whole file."""

    content: bytes
    etag: str | None = '"v1"'
    last_modified: str | None = None
    ranges: bool = True
    content_type: str = "application/octet-stream"


@dataclass
class Request:
    method: str
    path: str
    headers: Message
    body: bytes

    @property
    def range(self) -> tuple[int, int] | None:
        """First byte and the one behind the last, as asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(found[1]), int(found[2]) + 1) if found else None


@dataclass
class Exchange:
    """One request that is being answered."""

    server: "FileServer"
    handler: BaseHTTPRequestHandler
    request: Request

    def status(self, code: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.handler.send_response(code)
        for name, value in (headers or {}).items():
            self.handler.send_header(name, value)
        self.handler.send_header("Content-Length", str(len(body)))
        self.handler.end_headers()
        self.write(body)

    def write(self, body: bytes) -> None:
        self.server.sent_bytes += len(body)
        self.handler.wfile.write(body)

    def send(self, *, most: int | None = None, stall_s: float = 0.0) -> None:
        """Answer as an honest server does; ``most`` cuts the body, after ``stall_s`` of silence."""
        served = self.server.files.get(self.request.path)
        if served is None:
            self.status(404, {"Content-Type": "text/html"}, b"<html>no such file</html>")
            return
        code, headers, body = self._answer(served)
        self.handler.send_response(code)
        for name, value in headers.items():
            self.handler.send_header(name, value)
        self.handler.end_headers()
        if self.request.method != "HEAD":
            self.write(body if most is None else body[:most])
        if most is not None:
            self.handler.wfile.flush()
            time.sleep(stall_s)
            self.handler.close_connection = True

    def _answer(self, served: Served) -> tuple[int, dict[str, str], bytes]:
        content = served.content
        headers = {"Content-Type": served.content_type, "Accept-Ranges": "bytes"}
        headers |= {"ETag": served.etag} if served.etag else {}
        headers |= {"Last-Modified": served.last_modified} if served.last_modified else {}
        condition = self.request.headers.get("If-Range")
        stale = condition not in (None, served.etag, served.last_modified)
        asked = self.request.range
        if asked is None or not served.ranges or stale:
            return 200, headers | {"Content-Length": str(len(content))}, content
        start, stop = asked[0], min(asked[1], len(content))
        if start >= len(content):
            total = {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"}
            return 416, headers | total, b""
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return 206, headers | {"Content-Length": str(stop - start)}, content[start:stop]


@dataclass
class FileServer:
    """Serves ``files`` on 127.0.0.1. A context manager.

    Attributes:
        acts: each is used once, for the next data request (one that is not the first look at a
            file's beginning), instead of the honest answer.
        always: used for every request to a path.
    """

    files: dict[str, Served] = field(default_factory=dict)
    acts: list[Act] = field(default_factory=list)
    always: dict[str, Act] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    sent_bytes: int = 0
    context: ssl.SSLContext | None = None

    def __enter__(self) -> "FileServer":
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # the names are http.server's
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                request = Request(self.command, self.path, self.headers, body)
                server.serve(Exchange(server, self, request))

            def do_POST(self) -> None:
                self.do_GET()

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exception(), OSError):  # clients hang up, or refuse our TLS
                    super().handle_error(request, client_address)

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        if self.context is not None:
            self._http.socket = self.context.wrap_socket(self._http.socket, server_side=True)
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    def url(self, path: str = "") -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}{path}"

    def serve(self, exchange: Exchange) -> None:
        request = exchange.request
        self.requests.append(request)
        act = self.always.get(request.path.partition("?")[0])
        try:
            if act is not None:
                act(exchange)
            elif self.acts and request.method == "GET" and request.range != (0, 512):
                self.acts.pop(0)(exchange)
            else:
                exchange.send()
        except (BrokenPipeError, ConnectionResetError):
            exchange.handler.close_connection = True


def bytes_of(path: Path) -> Served:
    return Served(path.read_bytes())
