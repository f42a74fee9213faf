"""Load three real nodes for an hour, upset them all the while, and see what is lost and what grows.

    python tests/soak/run.py --seconds 3600 --seed 1

Clients publish packets, ask DNS over UDP, TCP, TLS, HTTPS and QUIC, use every command of the key-value store,
and watch both. Nodes are killed and restarted, leadership moves, logs are cut, a fourth node joins and
leaves. In the end: operations with their times and failures, whether anything acknowledged was lost, and by
what the memory and the open files of the node that lived all through have grown. Exit code 1 if anything is
not as it must be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from cluster import Cluster, https_settings, started
from fault_runner.judge import converges, packets_everywhere, same_state
from fault_runner.key_history import KeyHistory
from kv_history import READS
from soak_runner.measures import Measures
from soak_runner.packets import Publishers
from soak_runner.places import Places
from soak_runner.questions import ask_all
from soak_runner.report import figures, show
from soak_runner.samples import Samples
from soak_runner.upheaval import Upheaval
from soak_runner.watching import PacketWatch

KEY_CLIENTS: Final = 4
PUBLISHERS: Final = 4
GAP_S: Final = 80.0
"""Between two acts of the upheaval in a run of an hour; shorter runs have shorter ones."""
SAMPLE_S: Final = 10.0
WARM_UP: Final = 0.2
"""Of the run, after which growth is looked at; ten minutes at most."""
LINE_S: Final = 60.0


class Soak:
    """One run. Use on one event loop."""

    def __init__(self, cluster: Cluster, options: argparse.Namespace, base: Path) -> None:
        rng = random.Random(options.seed)
        self._cluster = cluster
        self._options = options
        self._rng = rng
        self.measures = Measures()
        self._places = Places(list(cluster), rng)
        self._publishers = Publishers(self._places, self.measures, options.keys, PUBLISHERS, options.puts)
        pause_s = KEY_CLIENTS / options.kv
        self._history = KeyHistory(cluster, options.seed, KEY_CLIENTS, pause_s=pause_s)
        self._watch = PacketWatch(self._places, self.measures)
        self._upheaval = Upheaval(cluster, self._places, self.measures, base, random.Random(rng.random()))
        self._samples = Samples(lambda: self._cluster.nodes)
        self._until = asyncio.Event()
        self._began = time.monotonic()

    async def run(self) -> dict[str, Any]:
        options, until = self._options, self._until
        await self._history.start()
        watching = asyncio.create_task(self._watch.run())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._publishers.run(until))
                keys = self._publishers.keys
                group.create_task(
                    ask_all(options.queries, self._places, keys, self.measures, self._rng, until)
                )
                group.create_task(self._look())
                group.create_task(self._say())
                await self._upheaval.run(options.seconds, min(GAP_S, options.seconds / 30))
                until.set()
            seconds = time.monotonic() - self._began
            verdicts = await self._verdicts()
            if watching.done():
                watching.result()  # it never ends by itself: this raises
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._history.close()
        self._count_keys()
        return self._figures(seconds, verdicts)

    async def _verdicts(self) -> dict[str, str | None]:
        """Once the clients rest: are all nodes level, and is everything there that was acknowledged?"""
        print("\nthe clients rest; judging", flush=True)
        await self._history.stop()
        problem = await asyncio.to_thread(converges, self._cluster)
        if problem is not None:
            return {"converges": problem}
        index = await asyncio.to_thread(self._cluster.wait_caught_up, 60.0)
        packets = self._publishers.published()
        return {
            "converges": None,
            "no acknowledged packet is lost": await asyncio.to_thread(
                packets_everywhere, self._cluster, packets
            ),
            "the watch of packets told all": await self._watch.missed(packets, index),
            **await self._history.verdicts(),
            "same state": await asyncio.to_thread(same_state, self._cluster),
        }

    def _count_keys(self) -> None:
        for told in self._history.told:
            kind = "KV read" if told.kind in READS else "KV write"
            if told.outcome == "ok":
                self.measures.done(kind, told.ended - told.called)
            else:
                self.measures.failed(kind, told.outcome)

    def _figures(self, seconds: float, verdicts: dict[str, str | None]) -> dict[str, Any]:
        warm_up_s = min(600.0, WARM_UP * seconds)
        immortal = self._samples.longest_lived(self._cluster.nodes[:1])
        return figures(
            seconds=seconds,
            measures=self.measures,
            verdicts=verdicts | {"all upheaval was got over": "; ".join(self._upheaval.failures) or None},
            acts=self._upheaval.log,
            snapshots=self._snapshots(),
            watched={"changes of packets": self._watch.events, "changes of keys": self._history.watched},
            processes=[process.after(warm_up_s) for process in immortal],
        )

    def _snapshots(self) -> int:
        """That were sent and installed, by the nodes' logs."""
        folder = self._cluster.nodes[0].log_path.parent
        return sum(log.read_bytes().count(b'"snapshot received"') for log in folder.glob("node-*.log"))

    async def _look(self) -> None:
        pause_s = min(SAMPLE_S, self._options.seconds / 20)
        while not self._until.is_set():
            await asyncio.to_thread(self._samples.take)
            await _pause(self._until, pause_s)

    async def _say(self) -> None:
        """A line now and then of how it goes."""
        while not self._until.is_set():
            await _pause(self._until, min(LINE_S, max(2.0, self._options.seconds / 5)))
            print(self._line(), flush=True)

    def _line(self) -> str:
        measures, node = self.measures, self._cluster.nodes[0]
        seconds = time.monotonic() - self._began
        outcomes = Counter(told.outcome for told in self._history.told)
        counts = [
            f"{measures.operations('PUT')} PUT ({measures.failures_of('PUT')} failed)",
            f"{measures.operations('DNS')} DNS ({measures.failures_of('DNS')})",
            f"{outcomes['ok']} KV ({outcomes['refused'] + outcomes['unknown']})",
        ]
        last = self._upheaval.log[-1][2] if self._upheaval.log else "nothing yet"
        return (
            f"{seconds / 60:5.1f} min  {', '.join(counts)}  node 1 {node.memory_kib() / 1_024:.0f} MiB  "
            f"problems {measures.problem_count}  last: {last}"
        )


async def _pause(until: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(until.wait(), seconds)
    except TimeoutError:
        pass


def _unretrieved(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """aioquic's client leaves the failures of connections that were given up to whoever asks for them."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


def run(options: argparse.Namespace, base: Path) -> bool:
    settings = {
        "ASPEN_LOG_KEEP_ENTRIES": str(options.log_keep),
        "ASPEN_IROH_ENABLE_MDNS": "false",  # others on this machine are not to be heard of
    }
    cluster = Cluster(base, 3, settings=settings)
    for node in cluster:
        https_settings(node, host="127.0.0.1")
    with started(cluster):

        async def soak() -> dict[str, Any]:
            asyncio.get_running_loop().set_exception_handler(_unretrieved)
            return await Soak(cluster, options, base).run()

        said = asyncio.run(soak())
    show(said)
    if options.json is not None:
        options.json.write_text(json.dumps(said, indent=2) + "\n")
    return bool(said["well"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3_600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--puts", type=float, default=100, help="packets a second")
    parser.add_argument("--queries", type=float, default=300, help="DNS queries a second, on all transports")
    parser.add_argument("--kv", type=float, default=20, help="key-value operations a second")
    parser.add_argument("--keys", type=int, default=2_000, help="under which packets are published")
    parser.add_argument(
        "--log-keep", type=int, default=1_000, help="entries: so few that snapshots are needed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, for machines")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="leave data and logs here")
    options = parser.parse_args()
    base = options.keep or Path(tempfile.mkdtemp(prefix="aspen-soak-"))
    base.mkdir(parents=True, exist_ok=True)
    print(f"soak: seed {options.seed}, {options.seconds:g} s, data in {base}", flush=True)
    well = False
    try:
        well = run(options, base)
    finally:
        if not well:
            print(f"data and logs are left in {base}")
        elif options.keep is None:
            shutil.rmtree(base, ignore_errors=True)
    print(f"verdict: {'ok' if well else 'FAILED'}")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
