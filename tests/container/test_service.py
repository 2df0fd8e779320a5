"""A service in a container, as its clients and its operator see it."""

import openai
import pytest

from tests.container.conftest import Run
from tests.container.containers import Container, answers

pytestmark = pytest.mark.container

QUESTION = {"role": "user", "content": "What is spark-kit?"}
ANSWER = (
    "spark-kit is a deployment kit: it runs iFlytekSpark-13B on one affordable GPU, "
    "with proof of the memory it takes."
)


def client(service: Container, key: str = "unused") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0, timeout=60)


def test_the_demo_answers_a_client_outside(service: Container) -> None:
    answer = client(service).chat.completions.create(model="demo", messages=[QUESTION])
    assert answer.choices[0].message.content == ANSWER


def test_it_streams(service: Container) -> None:
    stream = client(service).chat.completions.create(model="demo", messages=[QUESTION], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWER


def test_it_becomes_healthy(service: Container) -> None:
    service.wait_healthy()
    assert service.state["Health"]["Log"][-1]["Output"].startswith("ready")


def test_it_is_unhealthy_until_it_has_loaded(run: Run) -> None:
    container = run("--health-interval=1s", "--health-start-period=1ms", "--health-retries=1")
    seen = [container.health]
    while seen[-1] != "healthy":
        container.wait_for(lambda: container.health != seen[-1], "healthy")
        seen.append(container.health)
        assert seen[-1] != "healthy" or answers(f"{container.url}/health/ready")
    assert seen == ["starting", "unhealthy", "healthy"]


def test_the_health_check_follows_the_port(run: Run) -> None:
    container = run("--env", "KIT_PORT=9123", "--health-interval=1s", "--network", "none")
    container.wait_healthy()  # and needs no network but the loopback
    assert "http://0.0.0.0:9123/" in container.logs


def test_an_api_key_is_asked_for(run: Run) -> None:
    container = run("--env", "KIT_API_KEY=letmein")
    container.wait_ready()
    with pytest.raises(openai.AuthenticationError):
        client(container, key="wrong").models.list()
    assert [model.id for model in client(container, key="letmein").models.list()] == ["demo"]


def test_a_request_that_is_running_finishes_after_sigterm(run: Run) -> None:
    container = run()
    container.wait_ready()
    stream = client(container).chat.completions.create(
        model="demo",
        messages=[QUESTION],
        stream=True,
        max_tokens=200,
        extra_body={"ignore_eos": True},
    )
    while not next(stream).choices[0].delta.content:
        pass
    container.signal("TERM")
    reasons = [chunk.choices[0].finish_reason for chunk in stream]
    assert reasons[-1] == "length"
    assert len(reasons) > 50
    assert container.wait_ended() == 0


def test_an_idle_service_ends_at_once(run: Run) -> None:
    container = run()
    container.wait_ready()
    container.signal("TERM")
    assert container.wait_ended() == 0
