"""Whether the service can answer: loading, ready, failed or stopping."""

from dataclasses import dataclass

from kit.errors import KitError, ServiceError
from kit.serve.api.errors import ApiError
from kit.serve.model import Model, ModelSource, load_model

# Loading goes on in seconds: a client that asks so often misses little.
RETRY_AFTER_SECONDS = 2


@dataclass(frozen=True)
class Loading:
    """``progress`` of ``phase`` is done, from 0.0 to 1.0."""

    phase: str = "startup"
    progress: float = 0.0


@dataclass(frozen=True)
class Ready:
    """The model works."""

    model: Model


@dataclass(frozen=True)
class Failed:
    """The model could not be loaded, or has died; ``exit_code`` is that of the error."""

    error: str
    hint: str
    exit_code: int = KitError.exit_code


@dataclass(frozen=True)
class Stopping:
    """Running requests are finished, new ones are not taken."""


State = Loading | Ready | Failed | Stopping


@dataclass(frozen=True)
class Breach:
    """The service holds more memory than its budget, now; ``exit_code`` is that of the error."""

    error: str
    hint: str
    exit_code: int
    ends_readiness: bool


_ENGINE_DIED = Failed(
    "the engine has died",
    "read the log for its error, then start it again",
    ServiceError.exit_code,
)


class Readiness:
    """Holds the state. Written by the loading thread and the signal handler, read by every route.

    Attributes:
        loaded: the model, from when it was first ready until the process ends.
        breach: of the memory budget, as long as it lasts.
        passed: peaks that have passed the budget at any time, in words, by what they are of.
    """

    def __init__(self) -> None:
        self._state: State = Loading()
        self.loaded: Model | None = None
        self.breach: Breach | None = None
        self.passed: dict[str, str] = {}

    def state(self) -> State:
        """The state now.

        A ready service whose engine has died counts as failed; so does one over its memory budget,
        as long as that lasts, unless it is only to be reported.
        """
        state, breach = self._state, self.breach
        if isinstance(state, Ready) and not state.model.engine.healthy():
            return _ENGINE_DIED
        if isinstance(state, Ready) and breach is not None and breach.ends_readiness:
            return Failed(breach.error, breach.hint, breach.exit_code)
        return state

    def load(self, source: ModelSource) -> None:
        """Load the model and become ready. Blocks.

        Raises:
            KitError: it could not be loaded; the state is then Failed.
        """
        try:
            self.loaded = load_model(source, self._progress)
            self._become(Ready(self.loaded))
        except KitError as error:
            self._become(Failed(error.message, error.hint, error.exit_code))
            raise

    def stop(self) -> None:
        """Take no more requests. Final."""
        self._state = Stopping()

    def model(self) -> Model:
        """The model, to answer a request with.

        Raises:
            ApiError: 503, with Retry-After while waiting helps.
        """
        state = self.state()
        if isinstance(state, Ready):
            return state.model
        if isinstance(state, Loading):
            message = f"The model is loading ({state.phase}, {state.progress:.0%})."
        elif isinstance(state, Failed):
            message = f"The model cannot answer: {state.error}. {state.hint}"
        else:
            message = "The server is stopping."
        raise ApiError(503, message, code="model_not_ready", headers=retry_after(state))

    def _progress(self, phase: str, fraction: float) -> None:
        self._become(Loading(phase, fraction))

    def _become(self, state: State) -> None:
        if not isinstance(self._state, Stopping):
            self._state = state


def retry_after(state: State) -> dict[str, str]:
    """The header that tells clients to try again, for a state in which that helps."""
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if isinstance(state, Loading) else {}
