"""What the kernel knows of every node's processes, looked at every few seconds (Linux /proc)."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Final

from cluster import NodeProcess
from processes import open_files, resident_kib
from soak_runner.growth import growth_per_hour

WHAT: Final = ("memory", "files", "threads", "store")
USED: Final = re.compile(rb"^aspen_store_used_bytes (\S+)$", re.MULTILINE)


@dataclass
class Process:
    """One process from its start to its end."""

    name: str
    pid: int
    times_s: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    """KiB that are its own: what is mapped from files isn't counted (the store grows with its data)."""
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    store: list[int] = field(default_factory=list)
    """KiB of its node's store; 0 if the node didn't say."""

    def after(self, moment_s: float) -> Process:
        """The samples from some moment on."""
        first = sum(1 for at in self.times_s if at < moment_s)
        cut = {what: getattr(self, what)[first:] for what in WHAT}
        return Process(self.name, self.pid, self.times_s[first:], **cut)

    @property
    def span_s(self) -> float:
        return self.times_s[-1] - self.times_s[0] if self.times_s else 0.0

    def growth(self, what: str) -> float | None:
        return growth_per_hour(self.times_s, getattr(self, what))

    def median(self, what: str) -> float:
        values: Sequence[int] = getattr(self, what)
        return statistics.median(values) if values else 0.0


class Samples:
    """All processes that there were, by pid."""

    def __init__(self, nodes: Callable[[], Iterable[NodeProcess]]) -> None:
        self._nodes = nodes
        self._began = time.monotonic()
        self.processes: dict[int, Process] = {}

    def take(self) -> None:
        for node in list(self._nodes()):
            if not node.alive:
                continue
            store = store_kib(node)
            self._look(f"node {node.node_id}", node.pid, store)
            for pid in sorted(node.workers_alive()):
                self._look(f"node {node.node_id}'s UDP worker", pid, store)

    def _look(self, name: str, pid: int, store: int) -> None:
        try:
            found = resident_kib(pid), open_files(pid), len(os.listdir(f"/proc/{pid}/task"))
        except (FileNotFoundError, ProcessLookupError):
            return  # it has just ended
        process = self.processes.setdefault(pid, Process(name, pid))
        process.times_s.append(time.monotonic() - self._began)
        for values, value in zip(
            (process.memory, process.files, process.threads, process.store), (*found, store), strict=True
        ):
            values.append(value)

    def longest_lived(self, nodes: Iterable[NodeProcess]) -> list[Process]:
        """The processes that nodes have now."""
        pids = {pid for node in nodes if node.alive for pid in (node.pid, *node.workers_alive())}
        return sorted((p for pid, p in self.processes.items() if pid in pids), key=lambda p: p.name)


def store_kib(node: NodeProcess) -> int:
    """What the node's store holds up to its last page; 0 if it doesn't answer."""
    try:
        metrics = node.request("GET", "/metrics", timeout_s=2.0).body
    except (OSError, HTTPException):
        return 0
    found = USED.search(metrics)
    return int(float(found[1])) // 1_024 if found else 0
