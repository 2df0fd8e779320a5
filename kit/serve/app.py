"""The ASGI application: routes, what every request passes, and the state that they share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI

import kit
from kit.memory.hold import Budget
from kit.serve import about, chat, completions, health
from kit.serve.bodies import BODY_SECONDS
from kit.serve.budget import OnBreach
from kit.serve.errors import install_handlers
from kit.serve.generation import Answers
from kit.serve.metrics import Metrics
from kit.serve.middleware import Gate, Observe
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
    """

    api_key: str | None = None
    max_body_bytes: int = 4 * MIB
    budget: Budget = field(default_factory=Budget)
    on_breach: OnBreach = "unready"
    max_waiting: int = DEFAULT_MAX_WAITING
    body_seconds: float = BODY_SECONDS


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
        title="spark-kit", version=kit.__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.source = source
    app.state.readiness = readiness
    app.state.answers = answers = Answers(options.max_waiting)
    app.state.metrics = metrics = Metrics(readiness, options.budget, options.max_waiting)
    for part in (chat, completions, about, health):
        app.include_router(part.router)
    install_handlers(app)
    app.add_middleware(
        Gate,
        api_key=options.api_key,
        max_body_bytes=options.max_body_bytes,
        body_seconds=options.body_seconds,
        answers=answers,
    )
    app.add_middleware(Observe, metrics=metrics)
    return app
