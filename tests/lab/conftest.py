"""The fixture `lab`: hosts of a test's own, or a skip where this machine doesn't grant them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parent))

from cluster import LOG_TAIL_BYTES
from lab import Lab

_LABS: list[Lab] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A failure shows the end of each node's log."""
    report = yield
    if report.failed:
        for lab in _LABS:
            for node in lab.nodes:
                report.sections.append((f"{node}, {node.log_path}", node.log()[-LOG_TAIL_BYTES:]))
    return report


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    _LABS.append(made)
    try:
        yield made
    finally:
        _LABS.remove(made)
        made.close()
