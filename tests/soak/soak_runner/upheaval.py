"""What happens to the cluster meanwhile: nodes die and come back, others lead, a fourth comes and goes.

Node 1 is left alone, so that its processes live through the whole run and show what grows. All others are
killed (-9) or told to end in turn, now and then their UDP worker alone; some stay away long enough to need a
snapshot. A fourth node, wiped each time, becomes a learner, a voter, and is removed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from cluster import Cluster, NodeProcess, https_settings
from fault_runner.testbed import TOKEN
from processes import wait_until
from soak_runner.measures import Measures
from soak_runner.places import Places

from aspen.client import NodeClient
from aspen.errors import ClientError
from aspen.limits import RAFT_COMPACT_ENTRIES

LEVEL_S: Final = 300.0
"""A machine may have other things to do as well: what takes longer than this has gone wrong."""
CONTROL_MS: Final = 60_000
FOURTH: Final = 4


class Upheaval:
    """Use on one event loop; what waits for processes runs in threads."""

    def __init__(
        self, cluster: Cluster, places: Places, measures: Measures, base: Path, rng: random.Random
    ) -> None:
        self._cluster = cluster
        self._places = places
        self._measures = measures
        self._base = base
        self._rng = rng
        self._began = time.monotonic()
        self.log: list[tuple[float, float, str]] = []
        """When each act began, how long it took until all were level again (both in seconds), what it was."""
        self.failures: list[str] = []
        """Acts that the cluster did not get over."""
        self._acts: tuple[Callable[[], Awaitable[str]], ...] = (
            self.kill,
            self.membership,
            self.end,
            self.kill_leader,
            self.kill_worker,
            self.long_absence,
            self.lead,
            self.cut_log,
        )

    async def run(self, seconds: float, gap_s: float) -> None:
        """One act after the other, with a pause between, until the time is over: each once at least."""
        loop = asyncio.get_running_loop()
        over = loop.time() + seconds
        for number in itertools.count():
            await asyncio.sleep(gap_s)
            if number >= len(self._acts) and loop.time() >= over:
                return
            await self._one(self._acts[number % len(self._acts)])

    async def _one(self, act: Callable[[], Awaitable[str]]) -> None:
        began = time.monotonic() - self._began
        name = act.__name__.replace("_", " ")
        try:
            what = await act()
            await asyncio.to_thread(self._cluster.wait_ready, LEVEL_S)
        except (AssertionError, ClientError) as error:
            self.failures.append(f"after {began:.0f} s, {name}: {str(error).partition(chr(10))[0]}")
            what = "failed"
        took = time.monotonic() - self._began - began
        self.log.append((began, took, f"{name}: {what}"))

    def _mortal(self) -> NodeProcess:
        return self._rng.choice(self._cluster.nodes[1:3])

    async def _leader(self) -> NodeProcess:
        return await asyncio.to_thread(self._cluster.leader, LEVEL_S)

    @asynccontextmanager
    async def _down(
        self, node: NodeProcess, at_least_s: float = 0.5, at_most_s: float = 3.0
    ) -> AsyncIterator[None]:
        """While it is down; it is started again whatever happens, lest the rest of the run be about that."""
        try:
            yield
            await asyncio.sleep(self._rng.uniform(at_least_s, at_most_s))
        finally:
            if not node.alive:
                node.start()

    async def _control(self, node: NodeProcess, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """Asked again of the same node while no leader is known; a change that was made is made."""
        async with NodeClient(node.addr, token=TOKEN) as client:
            for left in range(5, -1, -1):
                try:
                    return await client.control(action, request, timeout_ms=CONTROL_MS)
                except ClientError as error:
                    if not left or error.code not in ("no_leader", "not_leader", "outcome_unknown"):
                        raise
                    self._measures.failed("membership", error.code)
                    await asyncio.sleep(0.5)
        raise AssertionError("not reached")

    # --- acts ---------------------------------------------------------------------------------

    async def kill(self) -> str:
        node = self._mortal()
        async with self._down(node):
            await asyncio.to_thread(node.kill)
        return f"-9, {node}"

    async def kill_leader(self) -> str:
        """After another than node 1 was made to lead."""
        node = self._mortal()
        await self._control(self._cluster.nodes[0], "transfer-leader", {"node_id": node.node_id})
        leader = await self._leader()
        if leader is self._cluster.nodes[0]:
            return "node 1 leads again: left alone"
        async with self._down(leader):
            await asyncio.to_thread(leader.kill)
        return f"-9, {leader}"

    async def end(self) -> str:
        node = self._mortal()
        async with self._down(node):
            code = await asyncio.to_thread(node.stop, LEVEL_S)
            assert code == 0, f"{node} ended with {code} when it was asked to end"
        return f"SIGTERM, {node}"

    async def long_absence(self) -> str:
        """Until the others have cut their logs beyond what the node has."""
        node, survivor = self._mortal(), self._cluster.nodes[0]
        wanted = int(survivor.settings["ASPEN_LOG_KEEP_ENTRIES"]) + 2 * RAFT_COMPACT_ENTRIES
        async with self._down(node, 0, 0):
            await asyncio.to_thread(node.kill)
            has = await asyncio.to_thread(_applied, survivor)
            await asyncio.to_thread(
                wait_until,
                lambda: _applied(survivor) > has + wanted,
                f"{wanted} more entries at {survivor}",
                LEVEL_S,
                0.2,
            )
            for other in self._cluster.living:
                await self._control(other, "snapshot", {})
        return f"-9, {node} for {wanted} entries"

    async def kill_worker(self) -> str:
        node = self._mortal()
        workers = await asyncio.to_thread(node.workers_alive)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(
            wait_until,
            lambda: (now := node.workers_alive()) and not now & workers,
            f"{node} has another UDP worker",
            LEVEL_S,
            0.1,
        )
        return f"{node}'s"

    async def lead(self) -> str:
        """Each of the three in turn."""
        leader = await self._leader()
        others = [node for node in self._cluster.nodes[:3] if node is not leader]
        wanted = self._cluster.nodes[0] if leader is not self._cluster.nodes[0] else self._rng.choice(others)
        await self._control(leader, "transfer-leader", {"node_id": wanted.node_id})
        return f"{leader} hands over to {wanted}"

    async def cut_log(self) -> str:
        node = self._rng.choice(self._cluster.nodes[:3])
        answer = await self._control(node, "snapshot", {})
        return f"{node} to {answer['first_index']}"

    async def membership(self) -> str:
        """A new node: learner, voter, serving; then gone."""
        node = self._fourth()
        node.start()
        through = self._cluster.nodes[0]
        try:
            await asyncio.to_thread(wait_until, node.status, f"{node} runs", LEVEL_S)
            learner = {
                "node_id": FOURTH,
                "endpoint_id": node.identity.endpoint_id.hex(),
                "addresses": [f"{node.host}:{node.quic_port}"],
            }
            await self._control(through, "add-learner", learner)
            await self._control(through, "promote", {"node_id": FOURTH})
            self._cluster.nodes.append(node)
            await asyncio.to_thread(self._cluster.wait_ready, LEVEL_S)
            self._places.nodes.append(node)
            await asyncio.sleep(self._rng.uniform(2.0, 5.0))
            self._places.leave(node)
            self._cluster.nodes.remove(node)
            await self._control(through, "remove", {"node_id": FOURTH})
            removed: Callable[[], bool] = lambda: (node.status() or {}).get("role") == "removed"  # noqa: E731
            await asyncio.to_thread(wait_until, removed, f"{node} knows that it was removed", LEVEL_S, 0.1)
        finally:
            if node in self._cluster.nodes:
                self._cluster.nodes.remove(node)
            if node in self._places.nodes:
                self._places.leave(node)
            await self._forget(through)
            await asyncio.to_thread(node.end_whatever_is_left)
            await asyncio.to_thread(shutil.rmtree, node.data_dir)
        return "node 4 came, voted, served and went"

    async def _forget(self, through: NodeProcess) -> None:
        """A voter that is gone for good would count towards every majority from now on."""
        members = (await asyncio.to_thread(through.status) or {}).get("members", ())
        if any(member["node_id"] == FOURTH for member in members):
            await self._control(through, "remove", {"node_id": FOURTH})

    def _fourth(self) -> NodeProcess:
        like = self._cluster.nodes[0]
        node = NodeProcess(FOURTH, self._base / f"node-{FOURTH}", profile=like.profile, workers=like.workers)
        node.settings = dict(like.settings)
        https_settings(node, host="127.0.0.1")
        return node


def _applied(node: NodeProcess) -> int:
    try:
        return int((node.status() or {}).get("applied_index", 0))
    except (OSError, HTTPException):
        return 0
