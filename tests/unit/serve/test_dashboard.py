"""The Grafana dashboard asks for figures that the server gives."""

import json
import re
from pathlib import Path

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families
from serve_fakes import MODEL

from kit.serve.metrics import MEMORY_LABELS

MONITORING = Path(__file__).parents[3] / "monitoring"
DASHBOARD = json.loads(
    (MONITORING / "grafana/dashboards/spark-kit.json").read_text(encoding="utf-8")
)
EXPRESSIONS = [t["expr"] for panel in DASHBOARD["panels"] for t in panel["targets"]]


def test_every_figure_exists(client: openai.OpenAI, http: httpx.Client) -> None:
    client.completions.create(model=MODEL, prompt="once")
    families = list(text_string_to_metric_families(http.get("/metrics").text))
    given = {sample.name for family in families for sample in family.samples}
    asked = {name for text in EXPRESSIONS for name in re.findall(r"\bkit_\w+", text)}
    assert asked - given == {"kit_memory_budget_bytes"}  # nothing was promised here


def test_every_kind_of_memory_exists() -> None:
    known = {*MEMORY_LABELS.values(), ("device", "weights"), ("device", "kv_cache")}
    pairs = re.findall(r'pool="(\w+)",kind="(\w+)"', " ".join(EXPRESSIONS))
    assert pairs
    assert set(pairs) <= known


def test_every_panel_asks_the_provisioned_source() -> None:
    source = (MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text()
    uids = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert uids == {"spark-kit"}
    assert "uid: spark-kit" in source
