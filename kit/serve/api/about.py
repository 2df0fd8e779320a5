"""GET /v1/models, /version and /metrics: what runs here."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

import kit
from kit.serve.api.exchange import ready_model
from kit.serve.api.metrics import Metrics
from kit.serve.model import Model, ModelSource

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
