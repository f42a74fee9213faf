"""Fixtures of the process-level tests. The helpers beside this file are plain modules, found by path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cluster import LOG_TAIL_BYTES, RUNNING, Cluster, running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A failure shows the end of each node's log."""
    report = yield
    if report.failed:
        for cluster in RUNNING:
            for node in cluster:
                report.sections.append((f"{node}, {node.log_path}", node.log()[-LOG_TAIL_BYTES:]))
    return report


@pytest.fixture(scope="module")
def _three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("three"), 3) as cluster:
        yield cluster


@pytest.fixture
def cluster(_three: Cluster) -> Iterator[Cluster]:
    """Three nodes, shared by the tests of a file; whatever a test kills is started again after it."""
    _three.restore()
    yield _three
    _three.restore()


@pytest.fixture(scope="module")
def _one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("one"), 1) as cluster:
        yield cluster


@pytest.fixture
def single(_one: Cluster) -> Iterator[Cluster]:
    """One node that is a cluster of its own, shared likewise."""
    _one.restore()
    yield _one
    _one.restore()
