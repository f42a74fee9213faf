"""The helpers beside this file are plain modules, found by path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from raft_cluster import Cluster


@pytest.fixture(params=["sync", "async"])
def cluster(request: pytest.FixtureRequest) -> Callable[..., Cluster]:
    """Builds a cluster; every story is told with storage in step with the core and apart from it."""

    def build(size: int = 3, **settings: Any) -> Cluster:
        return Cluster(size, async_storage_writes=request.param == "async", **settings)

    return build
