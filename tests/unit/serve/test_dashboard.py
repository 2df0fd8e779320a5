"""The Grafana dashboard asks for figures that the server gives."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from serve_fakes import MODEL

from kit.serve.api.metrics import MEMORY_LABELS

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "monitoring"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
MONITORS = yaml.safe_load((MONITORING / "compose.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads(
    (MONITORING / "grafana/dashboards/spark-kit.json").read_text(encoding="utf-8")
)
EXPRESSIONS = [t["expr"] for panel in DASHBOARD["panels"] for t in panel["targets"]]


def provisioned(name: str) -> dict[str, Any]:
    """One of Grafana's provisioning files."""
    found: dict[str, Any] = yaml.safe_load((MONITORING / "grafana" / name).read_text("utf-8"))
    assert found["apiVersion"] == 1
    return found


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
    (source,) = provisioned("provisioning/datasources/prometheus.yml")["datasources"]
    asked = [*DASHBOARD["panels"], *(t for panel in DASHBOARD["panels"] for t in panel["targets"])]
    assert {each["datasource"]["uid"] for each in asked} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in MONITORS["services"]


def test_compose_mounts_what_the_provisioning_names() -> None:
    grafana = MONITORS["services"]["grafana"]
    mounts = dict(reversed(each.split(":")[:2]) for each in grafana["volumes"])
    (provider,) = provisioned("provisioning/dashboards/spark-kit.yml")["providers"]
    folder = mounts[provider["options"]["path"]]
    assert (MONITORING / folder).resolve() == (MONITORING / "grafana/dashboards").resolve()
    assert mounts["/etc/grafana/provisioning"] == "./grafana/provisioning"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (MONITORING / "grafana/dashboards" / home.name).exists()


def test_prometheus_reads_the_service_under_its_alias() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    server = COMPOSE["x-server"]
    (alias,) = server["networks"]["default"]["aliases"]
    assert "server" in MONITORS["services"]["prometheus"]["networks"]
    assert MONITORS["networks"]["server"]["name"] == "${KIT_NETWORK:-spark-kit_default}"
    port = COMPOSE["x-environment"]["KIT_PORT"]
    assert job["static_configs"] == [{"targets": [f"{alias}:{port}"]}]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_understands_configuration_and_questions(tmp_path: Path) -> None:
    texts = [each.replace("$__rate_interval", "1m") for each in EXPRESSIONS]
    rules = [{"record": f"panel:{count}", "expr": text} for count, text in enumerate(texts)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    for check in (("config", MONITORING / "prometheus.yml"), ("rules", file)):
        done = subprocess.run(["promtool", "check", *check], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
