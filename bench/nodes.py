"""Our side: the process harness of tests/e2e, which starts real nodes."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))

from clients import HOST, Published, now_us, sign
from cluster import Cluster, NodeProcess, running, started
from ports import free_port
from processes import end_with_parent, wait_until

__all__ = [
    "HOST",
    "Cluster",
    "NodeProcess",
    "Published",
    "end_with_parent",
    "free_port",
    "now_us",
    "running",
    "sign",
    "started",
    "wait_until",
]
