"""The running service as its clients see it, over HTTP."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from kit.errors import ServiceError
from kit.records import parse_json, parse_object
from kit.settings import authority

# A health route touches no model: a server that works answers in milliseconds.
_PROBE_SECONDS = 5.0
_LOG = "read its log: kit logs"


@dataclass(frozen=True)
class Ready:
    """The model answers. The figures are the server's own, from ``/health/ready``."""

    model: str
    dtype: str
    device: str
    context_length: int
    max_sequences: int
    load_seconds: float
    device_peak_bytes: int | None
    host_peak_bytes: int | None = None
    host_private_bytes: int | None = None
    host_mapped_bytes: int | None = None
    device_reserved_bytes: int | None = None
    weights_bytes: int = 0
    breach: str | None = None
    """How it is over its memory budget, where that is only reported."""
    passed_peaks: tuple[str, ...] = ()
    """Peaks over the budget that it has seen since it started."""


@dataclass(frozen=True)
class Loading:
    """Alive, not ready. ``fraction`` of ``phase`` is done, from 0.0 to 1.0."""

    phase: str
    fraction: float


@dataclass(frozen=True)
class Failed:
    """The server runs, but says that it cannot serve; ``exit_code`` is that of its error."""

    error: str
    hint: str
    exit_code: int = 1


@dataclass(frozen=True)
class Silent:
    """No usable reply. ``refused``: nothing listens (yet); otherwise something does and hangs."""

    reason: str
    refused: bool


Health = Ready | Loading | Failed | Silent


class TooSlow(ServiceError):
    """No token came within the time that was given for it."""


class Client:
    """A client of the service at ``base_url`` (such as ``http://127.0.0.1:8000``).

    Proxy settings of the environment are not followed: the service is on this machine.
    """

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        self.base_url = base_url
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(
            base_url=base_url, headers=headers, timeout=_PROBE_SECONDS, trust_env=False
        )

    def health(self) -> Health:
        """What ``/health/ready`` says now."""
        try:
            response = self._client.get("/health/ready")
            body = parse_json(response.content)
            return _health(response.status_code, body)
        except httpx.TimeoutException as error:
            return Silent(f"{type(error).__name__} {error}".strip(), refused=False)
        except httpx.HTTPError as error:  # a container's port is open before its server listens
            return Silent(str(error), refused=True)
        except (ValueError, KeyError, TypeError, AttributeError):
            return Silent("another program answers on this port", refused=False)

    def is_busy(self, max_sequences: int) -> bool:
        """Whether a question asked now would have to wait for others, as ``/metrics`` tells."""
        try:
            text = self._client.get("/metrics").raise_for_status().text
        except httpx.HTTPError:
            return False
        figures = dict(re.findall(r"^kit_sequences_(running|waiting) (\S+)$", text, re.MULTILINE))
        running, waiting = (float(figures.get(name, 0)) for name in ("running", "waiting"))
        return running >= max_sequences or waiting > 0

    def version(self) -> dict[str, str | None]:
        """What ``/version`` tells: versions of the kit, its engine and torch; empty: nothing."""
        try:
            return parse_object(self._client.get("/version").raise_for_status().content)
        except (httpx.HTTPError, ValueError, TypeError):
            return {}

    def ask(self, model: str, question: str, *, max_tokens: int, timeout_seconds: float) -> str:
        """The answer of ``model`` to one user message.

        Raises:
            ServiceError: it could not be had.
        """
        request = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": max_tokens,
        }
        try:
            response = self._client.post(
                "/v1/chat/completions", json=request, timeout=timeout_seconds
            )
            response.raise_for_status()
            answer = parse_json(response.content)
            return str(answer["choices"][0]["message"]["content"])
        except httpx.HTTPStatusError as error:
            why = f"status {error.response.status_code}: {error.response.text[:300]}"
        except httpx.HTTPError as error:
            why = f"{type(error).__name__} {error}".strip()
        except (ValueError, KeyError, IndexError, TypeError):
            why = "it is not an OpenAI-style reply"
        raise ServiceError(f"the service gave no answer: {why}", hint=_LOG)

    def generate(
        self, model: str, prompt_ids: Sequence[int], tokens: int, *, timeout_seconds: float
    ) -> Iterator[None]:
        """Let ``model`` go on from token ids, past any end token; yields once per chunk of them.

        Raises:
            TooSlow: nothing came for ``timeout_seconds``.
            ServiceError: it failed, or ended before ``tokens`` were generated.
        """
        request = {
            "model": model,
            "prompt": list(prompt_ids),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": 0,  # so that tokens are told that give no text
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            with self._client.stream(
                "POST", "/v1/completions", json=request, timeout=timeout_seconds
            ) as response:
                if response.is_error:
                    response.read()
                response.raise_for_status()
                last = "{}"
                for line in _data_lines(response, timeout_seconds):
                    if line.startswith('data: {"error"'):
                        raise ServiceError(f"generation failed: {line[6:300]}", hint=_LOG)
                    if line.startswith("data: {"):
                        last = line.removeprefix("data: ")
                        yield
            generated = (parse_object(last).get("usage") or {}).get("completion_tokens", 0)
            if generated < tokens:
                why = f"it ended after {generated} of {tokens} tokens"
                raise ServiceError(f"generation failed: {why}", hint=_LOG)
        except httpx.HTTPStatusError as error:
            why = f"status {error.response.status_code}: {error.response.text[:300]}"
            raise ServiceError(f"generation failed: {why}", hint=_LOG) from error
        except httpx.TimeoutException as error:
            raise TooSlow(f"no token came for {timeout_seconds:.0f} s", hint=_LOG) from error
        except httpx.HTTPError as error:
            why = f"{type(error).__name__} {error}".strip()
            raise ServiceError(f"generation failed: {why}", hint=_LOG) from error


def base_url(host: str, port: int) -> str:
    """URL under which this machine reaches a server that binds ``host``."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://{authority(reachable, port)}"


def _data_lines(response: httpx.Response, timeout_seconds: float) -> Iterator[str]:
    """The lines with data. Between them the server may only say that it lives.

    Raises:
        httpx.ReadTimeout: no data came for ``timeout_seconds``.
    """
    heard = time.monotonic()
    for line in response.iter_lines():
        if line.startswith("data:"):
            yield line
            heard = time.monotonic()
        elif time.monotonic() - heard > timeout_seconds:
            raise httpx.ReadTimeout("nothing but signs of life")


def _memory(told: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of ``/health/ready`` that are looked at; one that is missing is not known."""
    names = (
        "device_peak_bytes",
        "host_peak_bytes",
        "host_private_bytes",
        "host_mapped_bytes",
        "device_reserved_bytes",
    )
    figures: dict[str, Any] = {name: told.get(name) for name in names}
    return figures | {"weights_bytes": int(told.get("weights_bytes") or 0)}


def _health(status: int, body: dict[str, Any]) -> Health:
    if status == 200 and body["status"] == "ready":
        budget = body.get("budget") or {}
        return Ready(
            model=str(body["model"]),
            dtype=str(body["dtype"]),
            device=str(body["device"]),
            context_length=int(body["context_length"]),
            max_sequences=int(body["max_sequences"]),
            load_seconds=float(body["load_seconds"]),
            **_memory(body["memory"]),
            breach=budget.get("breach"),
            passed_peaks=tuple(map(str, budget.get("passed_peaks") or ())),
        )
    if body["status"] == "stopping":
        return Loading("stopping", 0.0)
    if body["status"] == "loading":
        return Loading(str(body["phase"]), float(body["progress"]))
    return Failed(str(body["error"]), str(body["hint"]), int(body.get("exit_code", 1)))
