"""Failover: from kill -9 of the leader to the next acknowledged PUT through a survivor, beside etcd's.

Three members each, with heartbeats of 50 ms: our `lan` profile (election timeouts of 150 to 300 ms), and
etcd told the nearest that it can be (300 to 600 ms). A client with one keep-alive connection to each
survivor tries again until one of them acknowledges; then the victim is started and joins again.

`--loaded` looks at the other side of short timeouts: three nodes under as much load as they take must not
hold an election.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

import aiohttp

from bench import load, peers
from bench.nodes import HOST, Cluster, NodeProcess, free_port, running

TRY_S = 0.15  # one attempt; a survivor that still believes in the dead leader waits for it longer
PAUSE_S = 0.002  # before the next attempt, when one was refused
GIVE_UP_S = 10
SETTLE_S = 0.3  # everyone has heard of everyone again
ETCD_FLAGS = ("--heartbeat-interval=50", "--election-timeout=300")


@dataclass(frozen=True)
class Request:
    """A write that may be repeated."""

    method: str
    url: str
    body: bytes


class Side(Protocol):
    """Three members, one of which can be killed."""

    name: str

    def kill_leader(self) -> tuple[object, list[Request]]:
        """Kill it; return it, and a write through each survivor."""
        ...

    def revive(self, victim: object) -> None: ...


class Aspen:
    name = "aspen"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def prepare(self) -> tuple[NodeProcess, list[Request]]:
        leader = self._cluster.leader()
        survivors = [node for node in self._cluster if node is not leader]
        return leader, [Request("PUT", f"{node.addr}/v1/kv/failover", b"x" * 100) for node in survivors]

    def kill_leader(self) -> tuple[NodeProcess, list[Request]]:
        leader, requests = self.prepare()
        assert leader.process is not None
        leader.process.kill()
        return leader, requests

    def revive(self, victim: object) -> None:
        assert isinstance(victim, NodeProcess)
        victim.kill()  # reap it
        victim.start()
        self._cluster.wait_ready()
        self._cluster.wait_caught_up()


class Etcd:
    name = "etcd"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members = [peers.EtcdMember(f"m{i}", free_port(), free_port()) for i in range(3)]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for member in self._members:
            self._start(member)
        peers.await_leader(self._members)

    def _start(self, member: peers.EtcdMember) -> None:
        initial = ",".join(f"{m.name}={m.peer_url}" for m in self._members)
        command = peers.etcd_command(self._folder, 3, member, initial) + list(ETCD_FLAGS)
        with open(self._folder / f"{member.name}.log", "ab") as log_file:
            self._processes[member.name] = subprocess.Popen(command, stdout=log_file, stderr=log_file)

    def kill_leader(self) -> tuple[peers.EtcdMember, list[Request]]:
        leader = peers.await_leader(self._members)
        document = json.dumps(
            {"key": base64.b64encode(b"failover").decode(), "value": base64.b64encode(b"x" * 100).decode()}
        )
        survivors = [member for member in self._members if member is not leader]
        self._processes[leader.name].kill()
        return leader, [Request("POST", f"{m.client_url}/v3/kv/put", document.encode()) for m in survivors]

    def revive(self, victim: object) -> None:
        assert isinstance(victim, peers.EtcdMember)
        self._processes[victim.name].wait()
        self._start(victim)
        deadline = time.monotonic() + GIVE_UP_S
        while not victim.serves():
            if time.monotonic() > deadline:
                raise RuntimeError("an etcd member did not come back")
            time.sleep(0.05)

    def end(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(10)


@contextmanager
def etcd(folder: Path) -> Iterator[Etcd]:
    folder.mkdir()
    side = Etcd(folder)
    try:
        yield side
    finally:
        side.end()


# --- the client -------------------------------------------------------------------------------


async def _until_acknowledged(session: aiohttp.ClientSession, request: Request) -> None:
    while True:
        try:
            async with session.request(request.method, request.url, data=request.body) as response:
                await response.read()
                if response.status == 200:
                    return
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        await asyncio.sleep(PAUSE_S)


async def _one_round(side: Side) -> tuple[object, float]:
    """Kill the leader; return it, and the seconds until a survivor acknowledged a write."""
    timeout = aiohttp.ClientTimeout(total=TRY_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        victim, requests = side.kill_leader()
        killed = time.perf_counter()
        tries = [asyncio.ensure_future(_until_acknowledged(session, request)) for request in requests]
        done, pending = await asyncio.wait(tries, timeout=GIVE_UP_S, return_when=asyncio.FIRST_COMPLETED)
        took = time.perf_counter() - killed
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if not done:
            raise RuntimeError(f"{side.name}: no write succeeded for {GIVE_UP_S} s after the leader died")
        return victim, took


def measure(sides: Sequence[Side], rounds: int, *, shown: bool) -> dict[str, list[float]]:
    """Milliseconds of each round, the sides taking turns."""
    rng = random.Random(1)
    took: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            time.sleep(SETTLE_S + rng.random() * 0.1)  # kills fall anywhere between two heartbeats
            victim, seconds = asyncio.run(_one_round(side))
            took[side.name].append(seconds * 1_000)
            if shown:
                print(f"# {side.name} {seconds * 1_000:.0f} ms", flush=True)
            side.revive(victim)
    return took


def percentile(values: Sequence[float], share: float) -> float:
    """The value that at least `share` of them don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 100) * len(ordered) // 100) - 1))]


def report(took: dict[str, list[float]]) -> None:
    ours = took["aspen"]
    theirs = took.get("etcd")
    for label, figure in (("median", median), ("p99", lambda values: percentile(values, 0.99))):
        if theirs:
            load.report(f"failover_{label}_ms", figure(ours), figure(theirs), "etcd")
        else:
            print(f"bench: failover_{label}_ms aspen={figure(ours):.2f}", flush=True)


# --- under load -------------------------------------------------------------------------------


def loaded(seconds: int, folder: Path) -> bool:
    """Load all three nodes to their limit; whether the term stayed the same."""
    with running(folder / "loaded", 3) as cluster:
        before = [(node.status() or {}).get("term") for node in cluster]
        ends_at = time.monotonic() + seconds
        total = 0.0

        def press(node: NodeProcess) -> float:
            requests = [
                load.http_request(
                    "PUT",
                    f"/v1/kv/load-{node.node_id}-{i % 1_000}",
                    f"{HOST}:{node.http_port}",
                    b"x" * 200,
                    "application/octet-stream",
                )
                for i in range(60_000)
            ]
            path = folder / f"press-{node.node_id}"
            path.mkdir(exist_ok=True)
            try:
                return load.run(node.addr, requests, path, connections=64, seconds=5).rps
            except RuntimeError as error:  # what an election did to the requests that it met
                print(f"# {error}", flush=True)
                return 0.0

        turns = 0
        while time.monotonic() < ends_at:
            with ThreadPoolExecutor() as threads:
                total += sum(threads.map(press, cluster))
            turns += 1
        after = [(node.status() or {}).get("term") for node in cluster]
        same = len({*before, *after}) == 1
        print(
            f"# {seconds} s at {total / max(turns, 1):.0f} PUT/s: term {before} before, {after} after: "
            f"{'no election' if same else 'AN ELECTION'}",
            flush=True,
        )
        return same


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-etcd", action="store_true")
    parser.add_argument("--loaded", type=int, default=0, metavar="SECONDS", help="only the check under load")
    parser.add_argument("--verbose", action="store_true", help="print each round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aspen-bench-") as name:
        folder = Path(name)
        if options.loaded:
            return 0 if loaded(options.loaded, folder) else 1
        with running(folder / "aspen", 3) as cluster:
            ours = Aspen(cluster)
            if options.no_etcd or not peers.etcd_available():
                report(measure([ours], options.rounds, shown=options.verbose))
            else:
                with etcd(folder / "etcd") as theirs:
                    report(measure([ours, theirs], options.rounds, shown=options.verbose))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
