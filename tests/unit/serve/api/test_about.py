import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve_fakes import CONTEXT, MODEL, FakeEngine, RunningServer

import kit


def scrape(http: httpx.Client) -> dict[tuple[str, tuple[str, ...]], float]:
    """Value of every sample, by its name and the values of its labels."""
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, tuple(s.labels.values())): s.value for s in samples}


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "spark-kit")
    assert model.to_dict()["max_model_len"] == CONTEXT
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_versions(http: httpx.Client) -> None:
    body = http.get("/version").json()
    assert (body["version"], body["model"], body["engine"]) == (kit.__version__, MODEL, "fake")
    assert set(body) == {"version", "model", "engine", "torch", "transformers"}


def test_metrics(client: openai.OpenAI, http: httpx.Client) -> None:
    client.completions.create(model=MODEL, prompt="once")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt="")
    http.get("/nowhere")
    figures = scrape(http)
    assert figures["kit_requests_total", ("/v1/completions", "200")] == 1
    assert figures["kit_requests_total", ("/v1/completions", "400")] == 1
    assert figures["kit_requests_total", ("unknown", "404")] == 1
    assert figures["kit_ready", ()] == 1
    assert figures["kit_time_to_first_token_seconds_count", ()] == 1
    assert figures["kit_inter_token_seconds_count", ()] == 14
    assert figures["kit_request_seconds_count", ("/v1/completions",)] == 2
    assert figures["kit_prompt_tokens_total", ()] == 4
    assert figures["kit_generated_tokens_total", ()] == 15
    assert figures["kit_sequences_running", ()] == 0
    assert figures["kit_sequences_waiting", ()] == 0
    assert figures["kit_memory_bytes", ("weights", "host")] == 1000
    assert figures["kit_memory_bytes", ("peak", "host")] > 0
    assert figures["kit_memory_bytes", ("private", "host")] > 0
    assert ("kit_memory_bytes", ("peak", "device")) not in figures
    assert not any(name == "kit_memory_budget_bytes" for name, _ in figures)


def test_metrics_while_loading(start: object, engine: FakeEngine) -> None:
    engine.load_gate.clear()
    server: RunningServer = start(ready=False)  # type: ignore[operator]
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        figures = scrape(http)
    assert figures["kit_ready", ()] == 0
    assert ("kit_sequences_running", ()) not in figures
