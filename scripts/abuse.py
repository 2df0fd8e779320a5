"""A real server under innocent and hostile requests: it answers the one and survives the other.

Innocent clients send requests of many lengths, languages and parameters; meanwhile others send what
has ended or hurt a server before: temperatures that are as good as 0, prompts that are far too
long, bodies and headers that do not end, JSON without a bottom, hundreds of answers at once. At the
end every innocent request must have its answer, the server must be ready, and the memory that it
holds must not have grown:

    python scripts/abuse.py                       # 10000 requests of 500 lengths, on the demo
    python scripts/abuse.py --requests 500 --lengths 100
    python scripts/abuse.py --url http://127.0.0.1:8000 --pid 4711 --model demo

The exit code is 1 when one of that does not hold.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from kit.memory.probes.proc import ProcessMemory, descendants, process_memory
from kit.service.model import DEMO, Wish, resolve
from kit.units import MIB

MAX_GROWTH_BYTES = 64 * MIB
CLIENTS, RETRIES = 4, 60
_SETTLE_SECONDS = 15.0
"""Until the server has given back what the last requests left."""
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TEXTS = (
    "What is spark-kit?",
    "讯飞星火开源大模型需要多少显存?请用一句话回答。",
    "Сколько памяти нужно модели?",
    "def f(x):\n\treturn x ** 2  # 平方\n",
    "🙂🙃 ¿Cuánta memoria? 👩‍👩‍👧",
    "كم من الذاكرة يحتاج النموذج؟",
    "",
)


@dataclass
class Server:
    """Where it listens, whose memory counts, what it calls its model."""

    url: str
    pid: int
    model: str

    def held_bytes(self) -> int:
        """What the process and its children hold now."""
        found = map(process_memory, (self.pid, *descendants(self.pid)))
        known = [each for each in found if isinstance(each, ProcessMemory)]
        return sum(each.anonymous_bytes + each.file_bytes + each.shared_bytes for each in known)

    def connect(self) -> socket.socket:
        """A bare connection."""
        address = urlsplit(self.url)
        return socket.create_connection((address.hostname or "", address.port or 80), timeout=60)

    def post(self, route: str, body: object) -> httpx.Response:
        """One request."""
        return httpx.post(f"{self.url}{route}", json=body, timeout=300, trust_env=False)


@dataclass
class Outcome:
    """What came of it."""

    answered: int = 0
    retried: int = 0
    hostile: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    before_bytes: int = 0
    after_bytes: int = 0

    def judge(self, server: Server, requests: int) -> None:
        """Add what does not hold."""
        if self.answered != requests:
            self.failures.append(f"{requests - self.answered} of {requests} have no answer")
        ready = httpx.get(f"{server.url}/health/ready", timeout=60, trust_env=False)
        if ready.status_code != 200 or "budget" in ready.json():
            self.failures.append(f"not ready, or over the budget: {ready.text}")
        if self.after_bytes - self.before_bytes > MAX_GROWTH_BYTES:
            self.failures.append("it has grown by more than 64 MiB")


def innocent(server: Server, index: int, lengths: int) -> tuple[str, dict[str, Any], int]:
    """Route and body of an innocent request, and how many choices its answer has."""
    chance = random.Random(index)  # noqa: S311  (the same requests in every run)
    body: dict[str, Any] = {"model": server.model, "max_tokens": chance.randrange(1, 4)}
    body |= chance.choice(
        [
            {},
            {"temperature": 0},
            {"temperature": chance.uniform(0.01, 2), "seed": index},
            {"temperature": 1, "top_p": chance.uniform(0.05, 1), "top_k": chance.randrange(1, 99)},
            {"presence_penalty": chance.uniform(-2, 2), "frequency_penalty": 2},
            {"stop": ["。", "e"], "min_tokens": 1, "ignore_eos": True},
            {"stream": True, "stream_options": {"include_usage": True}},
        ]
    )
    if chance.random() < 0.2:
        text = chance.choice(TEXTS) * chance.randrange(1, 9)
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        more = {"logprobs": True, "top_logprobs": 3} if chance.random() < 0.5 else {}
        return CHAT, {**body, **more, "messages": messages}, 1
    length, n = 1 + index * 7919 % lengths, chance.choice([1, 1, 1, 1, 2])  # every length comes
    prompt = [chance.randrange(6, 400) for _ in range(length)]
    return COMPLETIONS, {**body, "prompt": prompt, "n": n}, n


def ask(server: Server, http: httpx.Client, index: int, lengths: int, outcome: Outcome) -> None:
    """One innocent request, sent again as any client does when the server is too busy."""
    route, body, choices = innocent(server, index, lengths)
    for _ in range(RETRIES):
        response = http.post(route, json=body)
        if response.status_code not in (429, 503) or "retry-after" not in response.headers:
            break
        outcome.retried += 1
        time.sleep(1)
    streamed = body.get("stream") and response.text.endswith("data: [DONE]\n\n")
    if response.status_code == 200 and (
        streamed or len(response.json()["choices"]) == choices  # whole answers only
    ):
        outcome.answered += 1
    else:
        outcome.failures.append(f"request {index}: {response.status_code} {response.text[:200]}")


# What hostile clients send. Each returns what it was told, for the report.


def tiny_temperatures(server: Server) -> str:
    """Scores divided by it are infinite."""
    temperatures = (1e-40, 5e-324, 1e-6)
    body = {"prompt": "x", "max_tokens": 4, "top_p": 5e-324, "top_k": 10**9}
    told = [server.post(COMPLETIONS, body | {"temperature": each}) for each in temperatures]
    return " ".join(str(each.status_code) for each in told)


def impossible_numbers(server: Server) -> str:
    """Numbers that no machine type holds."""
    fields = ({"top_k": 10**30}, {"seed": 2**63 - 1}, {"max_tokens": 10**20}, {"top_k": 1e400})
    told = [
        server.post(COMPLETIONS, {"prompt": "x", "max_tokens": 1} | each) for each in fields[:3]
    ]
    told.append(raw(server, b'{"prompt": "x", "temperature": 1e400, "top_p": NaN}'))
    told.append(raw(server, b'{"prompt": [%s]}' % (b"9" * 4000)))
    return " ".join(str(each.status_code) for each in told)


def raw(server: Server, body: bytes) -> httpx.Response:
    """A body that need not be JSON."""
    headers = {"Content-Type": "application/json"}
    url = f"{server.url}{COMPLETIONS}"
    return httpx.post(url, content=body, headers=headers, timeout=300, trust_env=False)


def long_conversations(server: Server) -> str:
    """Eight at once, of 3.9 MB each: in one message, in many, and in hundreds of prompts."""
    told: list[int] = []
    text = "显存 memory " * 350_000
    bodies = [
        (CHAT, {"messages": [{"role": "user", "content": text[:3_000_000]}]}),
        (CHAT, {"messages": [{"role": "user", "content": ""}] * 100_000}),
        (COMPLETIONS, {"prompt": [text[:40_000]] * 64}),
        (COMPLETIONS, {"prompt": [7] * 1_500_000}),
    ]

    def send(route: str, body: object) -> None:
        with contextlib.suppress(httpx.HTTPError):
            told.append(server.post(route, body).status_code)

    threads = [threading.Thread(target=send, args=each) for each in bodies * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return " ".join(map(str, sorted(told)))


def broken_bodies(server: Server) -> str:
    """No JSON, no UTF-8, no bottom, a name of a megabyte."""
    bodies = (
        b"[" * 200_000,
        b'{"prompt": ' * 100_000,
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}',
        b'{"%s": 1, "prompt": "x"}' % (b"n" * MIB),
        b"null",
        b"",
    )
    return " ".join(str(raw(server, body).status_code) for body in bodies)


def unfinished_bodies(server: Server) -> str:
    """A hundred bodies of 3.9 MB, none of which ends; after a while their senders go away."""
    head = (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % CHAT.encode()
    )
    with contextlib.ExitStack() as held:
        for _ in range(100):
            connection = held.enter_context(server.connect())
            connection.settimeout(2)
            with contextlib.suppress(OSError):
                connection.sendall(head + b"Content-Length: 4000000\r\n\r\n" + b" " * 3_900_000)
        time.sleep(3)
    return "held for 3 s"


def slow_headers(server: Server) -> str:
    """Fifty requests whose headers do not end, and fifty connections that say nothing."""
    with contextlib.ExitStack() as held:
        for index in range(100):
            connection = held.enter_context(server.connect())
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nX-Slow: " if index % 2 else b"")
        time.sleep(2)
    return "held for 2 s"


def bad_http(server: Server) -> str:
    """What is no HTTP."""
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 70_000):
        with server.connect() as connection, contextlib.suppress(OSError):
            connection.sendall(sent + b"\r\n\r\n")
            connection.recv(1000)
    return "sent"


def many_answers(server: Server) -> str:
    """64 prompts with 8 answers each; the client goes away after the first."""
    body = {"prompt": ["Tell me"] * 64, "n": 8, "max_tokens": 500, "ignore_eos": True}
    url = f"{server.url}{COMPLETIONS}"
    with httpx.stream(
        "POST", url, json=body | {"stream": True}, timeout=300, trust_env=False
    ) as response:
        for _ in itertools.islice(response.iter_lines(), 200):
            pass
        return str(response.status_code)


HOSTILE: tuple[Callable[[Server], str], ...] = (
    tiny_temperatures,
    impossible_numbers,
    long_conversations,
    broken_bodies,
    unfinished_bodies,
    slow_headers,
    bad_http,
    many_answers,
)


def run(server: Server, requests: int, lengths: int) -> Outcome:
    """Innocent requests from several clients; hostile ones one after another, all the while."""
    outcome = Outcome(before_bytes=server.held_bytes())
    numbers, lock, over = iter(range(requests)), threading.Lock(), threading.Event()

    def client() -> None:
        with httpx.Client(base_url=server.url, timeout=300, trust_env=False) as http:
            while True:
                with lock:
                    index = next(numbers, None)
                if index is None:
                    return
                try:
                    ask(server, http, index, lengths, outcome)
                except httpx.HTTPError as error:
                    outcome.failures.append(f"request {index}: {type(error).__name__} {error}")
                report(index, requests, server, outcome)

    attacking = threading.Thread(target=attack, args=(server, outcome, over))
    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in (attacking, *clients):
        thread.start()
    for thread in clients:
        thread.join()
    over.set()
    attacking.join()
    time.sleep(_SETTLE_SECONDS)
    outcome.after_bytes = server.held_bytes()
    outcome.judge(server, requests)
    return outcome


def attack(server: Server, outcome: Outcome, over: threading.Event) -> None:
    """Hostile requests until it is over, but each kind at least once."""
    for count, hostile in enumerate(itertools.cycle(HOSTILE), 1):
        try:
            told = hostile(server)
        except (httpx.HTTPError, OSError) as error:
            told = type(error).__name__
        outcome.hostile[f"{hostile.__name__}: {told}"] += 1
        if over.is_set() and count >= len(HOSTILE):
            return


def report(index: int, requests: int, server: Server, outcome: Outcome) -> None:
    """A line for every tenth of the requests."""
    if requests >= 10 and (index + 1) % (requests // 10) == 0:
        grown = (server.held_bytes() - outcome.before_bytes) / MIB
        print(f"{index + 1:6} requests, {grown:+7.1f} MiB", flush=True)


@contextlib.contextmanager
def demo_server(folder: Path) -> Iterator[Server]:
    """The demo, served by a process of its own with the budget that `kit up` would give it."""

    class Quiet:
        def say(self, line: str) -> None: ...

        def progress(self, phase: str, fraction: float | None) -> None: ...

    directory = resolve(Wish(DEMO, folder, has_gpu=False), Quiet()).directory
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kit", "serve", str(directory), "--port", str(port)]
    command += ["--name", DEMO, "--device", "cpu", "--max-ram", "700MiB"]
    process = subprocess.Popen(
        command, env=os.environ | {"KIT_HOST": "127.0.0.1"}, stderr=subprocess.DEVNULL
    )
    server = Server(f"http://127.0.0.1:{port}", process.pid, DEMO)
    try:
        await_ready(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(60)


def await_ready(server: Server, process: "subprocess.Popen[bytes]") -> None:
    """Return when it is ready; exit when it ends before."""
    while process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            url = f"{server.url}/health/ready"
            if httpx.get(url, timeout=60, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    sys.exit(f"the server ended with exit code {process.returncode}")


def main() -> None:
    """Attack, print what came of it, exit with 1 when something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000, help="innocent requests")
    parser.add_argument("--lengths", type=int, default=500, help="different lengths of prompts")
    parser.add_argument("--url", help="of a server that runs; else the demo is started")
    parser.add_argument("--pid", type=int, help="its process")
    parser.add_argument("--model", default=DEMO, help="what it calls its model")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.url:
            server = Server(options.url, options.pid, options.model)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(demo_server(folder))
        outcome = run(server, options.requests, options.lengths)
    print(json.dumps(outcome.hostile, indent=1, sort_keys=True))
    grown = (outcome.after_bytes - outcome.before_bytes) / MIB
    print(f"{outcome.answered} answered, {outcome.retried} sent again, grown by {grown:.1f} MiB")
    for failure in outcome.failures:
        print(f"failed: {failure}")
    sys.exit(1 if outcome.failures else 0)


if __name__ == "__main__":
    main()
