"""The order of the suite, and how many run side by side.

Side by side, the files that take longest begin first, so that nobody sits alone over one of them in the
end; a single process begins with the quick ones, which should speak first. `costs.txt` says what a file
takes; `make test ARGS=--costs` brings it up to date.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

COSTS = Path(__file__).with_name("costs.txt")
WORTH_A_LINE_S = 2.0
"""Files that take less are not listed, and count as nothing."""

_took_s: Counter[str] = Counter()


# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("aspen", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("aspen")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", action="store_true", help=f"write what each file took into {COSTS.name}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Twice as many as processors: more than half of the time is spent waiting for other processes."""
    return 2 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    costs_s = _known_costs_s()
    sign = -1 if hasattr(config, "workerinput") else 1
    items.sort(key=lambda item: sign * costs_s.get(_file(item.nodeid), 0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _took_s[_file(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What this run knows nothing of stays as it was, unless it is gone."""
    if not session.config.option.costs or hasattr(session.config, "workerinput"):
        return
    costs_s = {**_known_costs_s(), **_took_s}
    listed = [
        (-cost_s, file)
        for file, cost_s in costs_s.items()
        if cost_s >= WORTH_A_LINE_S and (session.config.rootpath / file).exists()
    ]
    COSTS.write_text("".join(f"{-cost_s:4.0f} {file}\n" for cost_s, file in sorted(listed)))


def _known_costs_s() -> dict[str, float]:
    lines = (line.split() for line in COSTS.read_text().splitlines())
    return {file: float(seconds) for seconds, file in lines}


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
