"""What runs here: GET /v1/models, /version, /metrics, and /health: liveness and readiness."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

import kit
from kit.serve.api.exchange import ready_model
from kit.serve.api.metrics import Metrics
from kit.serve.budget import memory_figures
from kit.serve.model import Model, ModelSource
from kit.serve.readiness import Failed, Loading, Readiness, Ready, State, retry_after

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The one model, as a list."""
    return {"object": "list", "data": [_model_object(ready_model(request, None))]}


@router.get("/v1/models/{name:path}")
async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
    """The model of that name."""
    return _model_object(ready_model(request, name))


@router.get("/version")
async def show_version(request: Request) -> dict[str, str | None]:
    """Versions of the kit and of what it runs on. Answers while the model is loading, too."""
    source: ModelSource = request.app.state.source
    return {
        "version": kit.__version__,
        "model": source.name,
        "engine": source.engine_name,
        "torch": _installed("torch"),
        "transformers": _installed("transformers"),
    }


@router.get("/metrics")
def show_metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _model_object(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "spark-kit",
        "max_model_len": model.info.context_length,
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@router.get("/health/live")
@router.get("/v1/health/live", include_in_schema=False)
async def live() -> dict[str, str]:
    """200 as long as the process answers at all."""
    return {"status": "alive"}


@router.get("/health/ready")
@router.get("/health", include_in_schema=False)
@router.get("/v1/health/ready", include_in_schema=False)
async def ready(request: Request) -> JSONResponse:
    """200 with the model's figures, or 503 with how far loading is, or why it failed."""
    readiness: Readiness = request.app.state.readiness
    state = readiness.state()
    status = 200 if isinstance(state, Ready) else 503
    told = _describe(state) | _describe_budget(readiness)
    return JSONResponse(told, status, headers=retry_after(state))


def _describe_budget(readiness: Readiness) -> dict[str, Any]:
    """What is over the memory budget now, and what was; nothing, where nothing has been."""
    breach, passed = readiness.breach, dict(readiness.passed)
    if breach is None and not passed:
        return {}
    return {"budget": {"breach": breach and breach.error, "passed_peaks": list(passed.values())}}


def _describe(state: State) -> dict[str, Any]:
    if isinstance(state, Ready):
        return _describe_model(state.model)
    if isinstance(state, Loading):
        return {"status": "loading", "phase": state.phase, "progress": state.progress}
    if isinstance(state, Failed):
        told = {"error": state.error, "hint": state.hint, "exit_code": state.exit_code}
        return {"status": "failed", **told}
    return {"status": "stopping", "error": "the server is stopping", "hint": "kit up"}


def _describe_model(model: Model) -> dict[str, Any]:
    return {
        "status": "ready",
        "model": model.name,
        "engine": model.engine_name,
        "dtype": model.info.dtype,
        "device": model.info.device,
        "tensor_parallel": model.info.tensor_parallel,
        "context_length": model.info.context_length,
        "max_sequences": model.info.max_sequences,
        "load_seconds": model.load_seconds,
        "memory": memory_figures(model),
    }
