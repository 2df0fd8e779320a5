"""A tokenizer of bytes, an engine that says what it is told, and a server in a thread."""

import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import httpx
import openai

from kit.errors import KitError
from kit.serve.defaults import GenerationDefaults
from kit.serve.engine import (
    EngineStats,
    Logprobs,
    ModelInfo,
    OnStep,
    Progress,
    SamplingParams,
    Step,
)
from kit.serve.model import ModelSource
from kit.serve.server import ModelServer, ServerOptions

END, RET = 256, 257
SPECIAL = {END: "<end>", RET: "<ret>"}
CONTEXT = 200
MODEL = "fake-spark"


class ByteTokenizer:
    """Ids 0-255 are bytes, then ``<end>`` and ``<ret>``, then the given pieces.

    Like SentencePiece it drops a space that a text begins with; a byte that is no UTF-8 becomes
    one U+FFFD, or with ``merge`` a run of them does, as in Python's decoder.
    """

    def __init__(self, pieces: Sequence[bytes] = (), merge: bool = False) -> None:
        self.pieces = [bytes([value]) for value in range(256)] + [b"", b"\n", *pieces]
        self._errors = "replace" if merge else "surrogateescape"

    def encode(self, text: str) -> list[int]:
        return [RET if byte == 10 else byte for byte in text.encode()]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        raw = b"".join(self.pieces[index] for index in token_ids)
        text = raw.decode(errors=self._errors)
        text = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
        return text.removeprefix(" ")

    def convert_ids_to_tokens(self, ids: int) -> str:
        if ids < 256:
            return f"<0x{ids:02X}>"
        return SPECIAL.get(ids) or self.pieces[ids].decode(errors="replace")

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        add_generation_prompt: bool,
        tokenize: bool,
        return_dict: bool,
    ) -> list[int]:
        assert add_generation_prompt and tokenize and not return_dict
        return self.encode("".join(f"{m['role'][0]}:{m['content']};" for m in conversation))


@dataclass
class Submission:
    """A sequence that the engine was given."""

    prompt_ids: list[int]
    params: SamplingParams
    generated: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


class FakeEngine:
    """Answers every prompt with ``reply``, one byte a token, then the end token.

    Attributes:
        pause_after: stop after this many tokens of each sequence until :meth:`go_on`.
        fail_after: end each sequence with an error after this many tokens.
        load_error: what loading raises.
        load_gate: loading waits for it once it has reported 41 % of the weights.
    """

    def __init__(self, reply: str = "Hello, 世界!") -> None:
        self.tokenizer = ByteTokenizer()
        self.reply: list[int] = self.tokenizer.encode(reply)
        self.pause_after: int | None = None
        self.fail_after: int | None = None
        self.load_error: BaseException | None = None
        self.load_gate = threading.Event()
        self.load_gate.set()
        self.loading = threading.Event()
        self.paused = threading.Event()
        self.submissions: list[Submission] = []
        self.alive = True
        self.closed = False
        self._ended: queue.SimpleQueue[KitError | None] = queue.SimpleQueue()
        self._resume = threading.Event()

    def says(self, reply: str | list[int]) -> None:
        self.reply = self.tokenizer.encode(reply) if isinstance(reply, str) else reply

    def go_on(self) -> None:
        self._resume.set()
        self.load_gate.set()

    def load(self, progress: Progress) -> ModelInfo:
        progress("weights", 0.41)
        self.loading.set()
        self.load_gate.wait()
        if self.load_error is not None:
            raise self.load_error
        return ModelInfo(
            context_length=CONTEXT,
            max_sequences=4,
            vocab_size=258,
            end_token_id=END,
            dtype="bfloat16",
            device="cpu",
            weights_bytes=1000,
            kv_cache_bytes=2000,
        )

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        on_step: OnStep,
        request: Hashable = None,
    ) -> Callable[[], None]:
        submission = Submission(list(prompt_ids), params)
        self.submissions.append(submission)
        arguments = (submission, list(self.reply), self.fail_after, on_step)
        threading.Thread(target=self._generate, args=arguments, daemon=True).start()

        def cancel() -> None:
            submission.cancelled.set()
            submission.ended.wait(5)

        return cancel

    def _generate(
        self, submission: Submission, reply: list[int], fail_after: int | None, on_step: OnStep
    ) -> None:
        for count, token_id in enumerate([*reply, END]):
            if count == self.pause_after:
                self.paused.set()
                while not self._resume.wait(0.01) and not submission.cancelled.is_set():
                    pass
            if submission.cancelled.is_set():
                break
            if count == fail_after:
                on_step(RuntimeError("out of memory"))
                break
            submission.generated += 1
            on_step(self._step(token_id, count, submission.params))
            if token_id == END or count + 1 == submission.params.max_tokens:
                break
        submission.ended.set()

    def _step(self, token_id: int, count: int, params: SamplingParams) -> Step:
        logprobs = None
        if params.top_logprobs is not None:
            others = ((token_id, -0.5), (END, -1.0), (0xE4, float("-inf")))
            logprobs = Logprobs(-0.5, others[: params.top_logprobs])
        last = count + 1 == params.max_tokens
        reason = "stop" if token_id == END else "length" if last else None
        return Step(token_id, logprobs, reason)  # type: ignore[arg-type]

    def stats(self) -> EngineStats:
        return EngineStats(
            running=sum(not s.ended.is_set() for s in self.submissions),
            waiting=0,
            prompt_tokens=sum(len(s.prompt_ids) for s in self.submissions),
            generated_tokens=sum(s.generated for s in self.submissions),
            device_peak_reserved_bytes=None,
        )

    def healthy(self) -> bool:
        return self.alive

    def wait(self) -> KitError | None:
        return self._ended.get()

    def die(self, error: KitError) -> None:
        self.alive = False
        self._ended.put(error)

    def close(self) -> None:
        self.closed = True
        self._ended.put(None)


def source(engine: FakeEngine) -> ModelSource:
    return ModelSource(
        name=MODEL,
        engine_name="fake",
        build_engine=lambda: engine,
        load_tokenizer=lambda: engine.tokenizer,
        read_defaults=GenerationDefaults,
    )


class RunningServer:
    """A real server in a thread."""

    def __init__(self, source: ModelSource, options: ServerOptions) -> None:
        self._server = ModelServer(source, options)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.load_error: KitError | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._server.run()
        except KitError as error:
            self.load_error = error

    def ready(self) -> httpx.Response:
        return httpx.get(f"{self.url}/health/ready", timeout=10, trust_env=False)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 20
        while self.ready().status_code != 200:
            assert time.monotonic() < deadline, "the server does not become ready"
            time.sleep(0.01)

    def client(self, **options: object) -> openai.OpenAI:
        settings = {"api_key": "unused", "max_retries": 0, "timeout": 20} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", **settings)  # type: ignore[arg-type]

    def async_client(self) -> openai.AsyncOpenAI:
        url = f"{self.url}/v1"
        return openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, timeout=20)

    def stop(self) -> None:
        self._server.stop()

    def wait_until_ended(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server does not end"

    def end(self) -> None:
        self.stop()
        self.wait_until_ended()
