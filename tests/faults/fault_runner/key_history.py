"""The key-value store's history under faults: every kind of command, judged by the order that a watch tells.

Five clients put, get, compare and swap, delete and transact on the same few keys through all nodes, each
operation sent once. Meanwhile one watcher follows all changes from node to node; afterwards each node is
asked for all of them. The tests of whole processes judge likewise (`kv_history`), without a network to cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))

from cluster import NodeProcess
from fault_runner.testbed import TOKEN
from kv_history import HistoryOfKeys, Told, judge

from aspen.client import Changes, Client, NodeClient

WATCH_S: Final = 120.0
PROBLEMS_SHOWN: Final = 5


class KeyHistory:
    """The clients and the watcher. Use on one event loop."""

    def __init__(
        self,
        nodes: Iterable[NodeProcess],
        seed: int,
        clients: int,
        reads: str = "consistent",
        pause_s: float = 0.0,
    ) -> None:
        self._addrs = [node.addr for node in nodes]
        self._clients = clients
        self._history = HistoryOfKeys(self._addrs, seed, token=TOKEN, reads=reads, pause_s=pause_s)
        self._until = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._watched: list[Changes] = []
        self._first = 0

    async def start(self) -> None:
        self._cluster = await self._stack.enter_async_context(
            Client(self._addrs, token=TOKEN, timeout_ms=20_000)
        )
        self._first = await self._revision()
        self._tasks = [
            asyncio.create_task(self._history.client(number, self._until)) for number in range(self._clients)
        ]
        self._watching = asyncio.create_task(_changes(self._cluster, self._first + 1, self._watched))

    async def _revision(self) -> int:
        return (await self._cluster.kv_scan(count_only=True, limit=None)).revision

    async def stop(self) -> None:
        """Let every client finish what it has begun."""
        self._until.set()
        await asyncio.gather(*self._tasks)

    async def verdicts(self) -> dict[str, str | None]:
        """Once all nodes are level: what is wrong with what clients and watchers were told."""
        end = await self._revision()
        stories = [self._watched]
        try:
            async with asyncio.timeout(WATCH_S):
                while self._watched_to() < end and not self._watching.done():  # noqa: ASYNC110  as it comes
                    await asyncio.sleep(0.02)
                for addr in self._addrs:
                    stories.append(await _all_changes(addr, self._first + 1, end))
        except TimeoutError:
            return {"watches end": f"a watch has not come to revision {end} in {WATCH_S:g} s"}
        problems = judge(self._history.told, self._watched, self._first)
        alike = all(story == self._watched for story in stories)
        return {
            "one history of all keys": "; ".join(problems[:PROBLEMS_SHOWN]) or None,
            "all who watch see the same": None if alike else "one watch tells other changes than another",
            "writes got through": None if self._watched else "no key was ever written",
        }

    async def close(self) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        await self._stack.aclose()

    @property
    def told(self) -> Sequence[Told]:
        """All operations so far, those under way included."""
        return self._history.told

    @property
    def watched(self) -> int:
        """Revisions that the watcher has told of."""
        return len(self._watched)

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(f"{one.kind} {one.outcome}" for one in self._history.told)

    def summary(self) -> str:
        operations = len(self._history.told)
        return f"{operations} operations judged by revisions {self._first + 1} to {self._watched_to()}"

    def _watched_to(self) -> int:
        return self._watched[-1].revision if self._watched else self._first


async def _changes(
    client: Client | NodeClient, start: int, found: list[Changes], end: int | None = None
) -> None:
    async for told in client.kv_watch(start=start):
        if told.changes:
            found.append(told)
        if end is not None and told.revision >= end:
            return


async def _all_changes(addr: str, start: int, end: int) -> list[Changes]:
    found: list[Changes] = []
    async with NodeClient(addr, token=TOKEN) as node:
        await _changes(node, start, found, end)
    return found
