"""Errors as the OpenAI API words them: ``{"error": {"message", "type", "param", "code"}}``."""

import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from kit.errors import KitError

REQUEST_ID = "x-request-id"
CLIENT_GONE = 499
"""nginx's status for a client that left before it got an answer."""
_MOST_CHARACTERS = 2000
"""Of a message, which may quote what a client sent."""
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)


class ApiError(Exception):
    """What a client is told: an HTTP status and the fields of OpenAI's error object.

    Args:
        status: HTTP's.
        message: for the client. Without a code it is logged, and must not quote the client.
        code: a name for this kind of error.
        param: the request's field that it is about.
        headers: of the response.
        why: more than the code for the log. It must not quote the client.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        why: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers
        self._why = why

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        fields = {
            "message": self.message[:_MOST_CHARACTERS],
            "type": "rate_limit_error" if self.status == 429 else kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": fields}

    def reason(self) -> str:
        """What the log says: nothing that a client has written."""
        if self.code is None:
            return self.message
        place = [loggable(self.param)] if self.param else []
        return " ".join([self.code, *place]) + (f": {self._why}" if self._why else "")

    def response_to(self, scope: Scope) -> Response:
        """The response to the request of ``scope``, whose line in the log then has the reason."""
        scope.setdefault("state", {})["reason"] = self.reason()
        return self._response()

    def _response(self) -> Response:
        """The HTTP response. Its JSON is ASCII: a message may quote text that UTF-8 cannot hold."""
        return Response(
            json.dumps(self.body()), self.status, self.headers, media_type="application/json"
        )


def loggable(name: str) -> str:
    """A parameter's name as a log may hold it; what looks like a client's text is left out."""
    return name if _NAME.fullmatch(name) else "…"


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """The client's mistake, status 400."""
    return ApiError(400, message, param=param, code=code)


def engine_failed(error: Exception) -> ApiError:
    """The engine ended a sequence with an error, status 500."""
    known = isinstance(error, KitError)
    message = str(error) if known else f"the engine failed: {type(error).__name__}: {error}"
    return ApiError(500, message, code="engine_error")


def install_handlers(app: FastAPI) -> None:
    """Make every error that leaves a route an OpenAI-style one."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error.response_to(request.scope)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid_body(error.errors()[0]).response_to(request.scope)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return _http_error(request, error).response_to(request.scope)

    @app.exception_handler(ClientDisconnect)
    async def client_gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        name = {REQUEST_ID: request.state.request_id}  # no middleware sees this response
        error = ApiError(500, f"internal error: {type(error).__name__}", headers=name)
        return error.response_to(request.scope)


def _invalid_body(problem: Mapping[str, Any]) -> ApiError:
    """The first thing pydantic found wrong, in OpenAI's words."""
    kind, message = problem["type"], problem["msg"]
    place = [part for part in problem["loc"][1:] if not str(part).startswith("[")]
    param = ".".join(map(str, place)) or None
    if kind == "json_invalid":
        reason = problem["ctx"]["error"]
        return bad_request(f"The body is not JSON: {reason} at character {problem['loc'][1]}.")
    if not place and kind in ("missing", "model_attributes_type", "dict_type", "model_type"):
        return bad_request("The body must be a JSON object with Content-Type: application/json.")
    if kind == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {param}"
        return bad_request(message, param=param, code="unknown_parameter")
    if kind in ("unsupported_parameter", "conflicting_parameters"):
        param = ".".join([*map(str, place), problem["ctx"]["name"]])
        return bad_request(message, param=param, code=kind)
    if kind == "missing":
        message = f"Missing required parameter: '{param}'."
        return bad_request(message, param=param, code="missing_required_parameter")
    told = f"Invalid value for '{param}': {message}."
    return ApiError(400, told, param=param, code="invalid_value", why=message)


def _http_error(request: Request, error: HTTPException) -> ApiError:
    # FastAPI's own words, about what json.loads raised, name no cause.
    if isinstance(error.__cause__, ValueError | RecursionError):
        return bad_request(f"The body cannot be read: {_unreadable(error.__cause__)}.")
    place = f"{request.method} {request.url.path}"
    message, code = {
        404: (f"There is no {place}.", "unknown_url"),
        405: (f"{place} is not allowed.", "method_not_allowed"),
    }.get(error.status_code, (str(error.detail), None))
    return ApiError(error.status_code, message, code=code, headers=error.headers)


def _unreadable(error: ValueError | RecursionError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "a number has too many digits"  # the only other one that json.loads raises
