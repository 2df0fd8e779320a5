"""The ASGI application: routes, what every request passes, and the state that they share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute

import kit
from kit.memory.budget import Budget
from kit.serve.api import about, chat, completions
from kit.serve.api.bodies import BODY_SECONDS
from kit.serve.api.errors import REQUEST_ID, install_handlers
from kit.serve.api.generation import Answers
from kit.serve.api.metrics import Metrics
from kit.serve.api.middleware import Gate, HostCheck, Observe
from kit.serve.api.neutral import UnknownParameters
from kit.serve.budget import OnBreach
from kit.serve.model import ModelSource
from kit.serve.readiness import Readiness
from kit.settings import DEFAULT_MAX_WAITING
from kit.units import MIB


@dataclass(frozen=True)
class AppOptions:
    """How the application guards itself.

    Attributes:
        api_key: when set, ``/v1`` (but not its health routes) asks for it as a bearer token.
        max_body_bytes: longest request body.
        budget: what the memory that it holds may not pass while it serves.
        on_breach: what being over the budget does.
        max_waiting: answers that may wait for others to end.
        body_seconds: that the body of a request may take to come.
        unknown_parameters: what happens to parameters that no server is known to have.
        allow_origins: of web pages that may use the server; ``*`` for all.
        allow_hosts: names in ``Host`` that are not refused; None: any.
    """

    api_key: str | None = None
    max_body_bytes: int = 4 * MIB
    budget: Budget = field(default_factory=Budget)
    on_breach: OnBreach = "unready"
    max_waiting: int = DEFAULT_MAX_WAITING
    body_seconds: float = BODY_SECONDS
    unknown_parameters: UnknownParameters = "refuse"
    allow_origins: tuple[str, ...] = ()
    allow_hosts: frozenset[str] | None = None


def create_app(source: ModelSource, readiness: Readiness, options: AppOptions) -> FastAPI:
    """The application that serves ``source`` once ``readiness`` has loaded it.

    When the application ends, it closes the engine.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        readiness.stop()
        if readiness.loaded is not None:
            await asyncio.to_thread(readiness.loaded.engine.close)

    app = FastAPI(
        title="spark-kit",
        version=kit.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.source = source
    app.state.readiness = readiness
    app.state.answers = answers = Answers(options.max_waiting)
    app.state.metrics = metrics = Metrics(readiness, options.budget, options.max_waiting)
    for part in (chat, completions, about):
        app.include_router(part.router)
        _answer_head(app, part.router)
    install_handlers(app)
    app.add_middleware(
        Gate,
        api_key=options.api_key,
        max_body_bytes=options.max_body_bytes,
        body_seconds=options.body_seconds,
        answers=answers,
        unknown_parameters=options.unknown_parameters,
    )
    if options.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.allow_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            allow_private_network=True,  # pages of the internet that were named may ask localhost
            expose_headers=(REQUEST_ID, "Retry-After"),
        )
    if options.allow_hosts is not None:
        app.add_middleware(HostCheck, allowed=options.allow_hosts)
    app.add_middleware(Observe, metrics=metrics)
    return app


def _answer_head(app: FastAPI, router: APIRouter) -> None:
    """Starlette's routes answer HEAD where they answer GET; FastAPI's do not by themselves."""
    for route in router.routes:
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
