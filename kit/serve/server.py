"""The server process: the port first, then liveness, then the model; an orderly end."""

import asyncio
import errno
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from kit.errors import EnvironmentNotReady, IntegrityError, KitError
from kit.serve.api.app import AppOptions, create_app
from kit.serve.api.errors import bad_request
from kit.serve.api.generation import Answers
from kit.serve.budget import BudgetWatch, look
from kit.serve.engine import Engine
from kit.serve.heap import give_back, settle_heap, tidy
from kit.serve.model import ModelSource
from kit.serve.readiness import Readiness
from kit.settings import DEFAULT_KEEP_ALIVE_SECONDS, authority

HEADER_SECONDS = 20.0
"""From a connection's first moment, or the first byte of its next request, to its last header; and
from an answer to the end of a body that it did not need."""


class Connection(H11Protocol):
    """Closes what only trickles: headers, and the rest of a body whose request has its answer.
    What is no HTTP gets its error as JSON, like every other request.

    A body that is wanted is bounded in :mod:`kit.serve.api.bodies`; an idle connection between two
    requests is uvicorn's to close.
    """

    header_seconds = HEADER_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect headers."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Expect what is still missing, if anything is."""
        super().data_received(data)
        self._expect()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's refusal of bytes that no request can be read from, in our words."""
        body = json.dumps(bad_request(msg, code="invalid_http").body()).encode()
        length = str(len(body)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", length),
            (b"connection", b"close"),
        ]
        reason = STATUS_PHRASES[400]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        """Expect the rest of a body that was not read."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing."""
        self._expect_nothing()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        answered = self.cycle is not None and self.cycle.response_complete
        theirs = self.conn.their_state
        return theirs is h11.IDLE or (theirs is h11.SEND_BODY and answered)

    def _expect(self) -> None:
        if not self._waits():
            self._expect_nothing()
        elif self._due is None:
            self._due = self.loop.call_later(self.header_seconds, self._late)

    def _expect_nothing(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _late(self) -> None:
        self._due = None
        if self._waits() and not self.transport.is_closing():
            self.transport.close()


logger = logging.getLogger("kit.serve")

_LAST_WORDS_SECONDS = 5
"""For the errors that tell clients of the end; then what still runs is cut."""
_HOPELESS = (EnvironmentNotReady, IntegrityError)
"""What is missing or damaged is so at the next start, too."""
_COMPILED_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
"""Programs that oneDNN keeps, 1024 by default and up to 1 MiB each. The passes' shapes, which are
what bounds them, need fewer (``kit.serve.shapes``). Read when torch is loaded."""


@dataclass(frozen=True)
class ServerOptions:
    """Where and how to serve.

    Attributes:
        port: 0 takes a free one.
        grace_seconds: how long running requests may take to finish after a signal to stop.
        keep_alive_seconds: how long a connection stays open between two requests.
        stays: where the model cannot be loaded and a restart would not help, the process goes on
            and says why. In a container that is started again whenever it ends, it would else be
            loaded, and fail, for ever.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grace_seconds: int = 10
    keep_alive_seconds: int = DEFAULT_KEEP_ALIVE_SECONDS
    stays: bool = False
    app: AppOptions = field(default_factory=AppOptions)


def run(source: ModelSource, options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT, then finish running requests and return.

    Raises:
        EnvironmentNotReady: the port cannot be bound.
        KitError: the model could not be loaded, or its engine has died.
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s")
    logging.getLogger("kit").setLevel(logging.INFO)
    for name, value in _COMPILED_SHAPES.items():
        os.environ.setdefault(name, value)
    settle_heap()
    with _signals_end_in_success():
        ModelServer(source, options).run()


def refused(error: KitError) -> ModelSource:
    """A model of which it is known already why it cannot be loaded."""

    def fail() -> NoReturn:
        raise error

    return ModelSource("none", "none", fail, fail, fail)


class ModelServer:
    """A bound port, and the model behind it.

    Attributes:
        readiness: what the health routes say.
        port: the port that was bound.

    Raises:
        EnvironmentNotReady: the port cannot be bound.
    """

    def __init__(self, source: ModelSource, options: ServerOptions) -> None:
        self._source, self._stays = source, options.stays
        self._budget, self._on_breach = options.app.budget, options.app.on_breach
        self._listener = bind(options.host, options.port)
        self.port: int = self._listener.getsockname()[1]
        self.readiness = Readiness()
        self._error: BaseException | None = None
        app = create_app(source, self.readiness, options.app)
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            server_header=False,
            http=Connection,
            timeout_keep_alive=options.keep_alive_seconds,
            timeout_graceful_shutdown=options.grace_seconds + _LAST_WORDS_SECONDS,
        )
        answers: Answers = app.state.answers
        self._server = _Server(config, self.readiness.stop, options.grace_seconds, answers.end)

    def run(self) -> None:
        """Serve until :meth:`stop` or a signal.

        Raises:
            KitError: the model could not be loaded, or its engine has died.
        """
        loading = threading.Thread(target=self._load, name="load", daemon=True)
        loading.start()
        self._server.run(sockets=[self._listener])
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Take no more requests and end when the running ones have. From any thread."""
        self.readiness.stop()
        self._server.should_exit = True

    def _load(self) -> None:
        host, port = self._listener.getsockname()[:2]
        url = f"http://{authority(host, port)}/health/ready"
        logger.info("loading %s; %s tells when", self._source.name, url)
        try:
            self.readiness.load(self._source)
        except BaseException as error:  # not handled here: run() raises it in the main thread
            if self._stays and isinstance(error, _HOPELESS):
                print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr, flush=True)
                logger.info("it will not serve until it is started anew")
                return
            self._error = error
            self._server.should_exit = True
            return
        if (model := self.readiness.loaded) is not None:
            gc.freeze()  # what is here stays: looking for garbage need not look at it
            logger.info("ready after %.1f s", model.load_seconds)
            promised = self._budget.on(model.info.device)
            BudgetWatch(
                promised,
                self.readiness,
                lambda: look(model),
                give_back=give_back,
                tidy=tidy,
                on_breach=self._on_breach,
            ).start()
            self._end_with(model.engine)

    def _end_with(self, engine: Engine) -> None:
        """Wait for the engine's end. One that has died cannot be brought back but by a restart."""
        death = engine.wait()
        if death is not None:
            logger.error("%s", death.message)
            self._error = death
            self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn's, which also tells when it is asked to stop, and when answers have to end."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_stop: Callable[[], None],
        grace_seconds: float,
        end_answers: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_stop, self._grace_seconds, self._end_answers = on_stop, grace_seconds, end_answers

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running requests finish; those that have not when the grace ends get an error."""
        ending = asyncio.get_running_loop().call_later(self._grace_seconds, self._end_answers)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()


@contextmanager
def _signals_end_in_success() -> Iterator[None]:
    """Make the signals harmless that uvicorn raises a second time after its orderly end."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    Raises:
        EnvironmentNotReady: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise EnvironmentNotReady(
                f"port {port} on {host} is in use",
                hint=f"stop what listens there (ss -ltnp 'sport = :{port}'), or choose another"
                " port with --port or KIT_PORT",
            ) from error
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise EnvironmentNotReady(
            f"cannot listen on {host} port {port}: {reason}",
            hint="choose an address of this machine with --host, and a port from 1024 up",
        ) from error
