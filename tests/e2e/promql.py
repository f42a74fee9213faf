"""What alert rules and dashboard ask Prometheus for: every metric and label, out of the parsed queries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "aspen.json"
PARTS = ("expr", "lhs", "rhs", "args", "param", "vector_selector")
OF_THE_SCRAPE = {"job", "instance"}


class Use(NamedTuple):
    where: str
    names: set[str]
    """Series, as the query spells them: with `_bucket` and the like."""
    labels: set[str]
    """Those that it selects, groups or shows by."""


def alerts() -> Iterator[Use]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            shown = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
            yield _use(rule["alert"], rule["expr"], shown)


def panels() -> Iterator[Use]:
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "5m")
            yield _use(panel["title"], expression, set(re.findall(r"{{(\w+)}}", target["legendFormat"])))
    for variable in board["templating"]["list"]:
        if asked := re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]):
            yield _use(variable["name"], asked[1], {asked[2]})


def _use(where: str, expression: str, shown: set[str]) -> Use:
    names: set[str] = set()
    labels = set(shown)
    for node in _nodes(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.VectorSelector):
            names.add(node.name)
            labels |= {matcher.name for matcher in node.matchers.matchers}
        modifier = getattr(node, "modifier", None)
        labels |= set(getattr(modifier, "labels", None) or [])
        matching = getattr(modifier, "matching", None)
        labels |= set(getattr(matching, "labels", None) or [])
    return Use(where, names, labels)


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for part in PARTS:
        found = getattr(node, part, None)
        for child in found if isinstance(found, list) else [found]:
            if child is not None:
                yield from _nodes(child)
