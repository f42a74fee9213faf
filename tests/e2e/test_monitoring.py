"""Alerts and dashboard: they parse, are fresh, and fire when they should (names: test_e2e_metrics.py)."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import promql
import pytest
import yaml

TESTS = Path(__file__).with_name("alerts_test.yml")


def test_the_dashboard_is_what_its_script_makes() -> None:
    path = promql.DASHBOARD.with_name("dashboard.py")
    spec = importlib.util.spec_from_file_location("grafana_dashboard", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert promql.DASHBOARD.read_text() == module.text(), "run python deploy/grafana/dashboard.py"
    places = [panel["gridPos"] for panel in module.made()["panels"]]
    squares = {
        (x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])
    }
    assert len(squares) == sum(p["w"] * p["h"] for p in places)  # none lies on another


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
@pytest.mark.parametrize("arguments", [["check", "rules", str(promql.ALERTS)], ["test", "rules", str(TESTS)]])
def test_alerts_fire_when_they_should(arguments: list[str]) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing_and_says_what_to_do() -> None:
    fired = {
        name
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for expected in test["promql_expr_test"]
        for sample in expected["exp_samples"]
        if "alertname=" in (name := sample["labels"])
    }
    for group in yaml.safe_load(promql.ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert f'{{alertname="{rule["alert"]}"}}' in fired
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert {"summary", "description"} <= set(rule["annotations"]), rule["alert"]
