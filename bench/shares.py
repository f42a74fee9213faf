"""What a PUT's time goes into: shares of verifying, HTTP, Raft, LMDB and the rest on the node that takes the
PUTs, the leader, for one node and for three, with 64 connections and distinct keys."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aspen.profiler import OTHER, PARTS
from bench import load
from bench.nodes import Cluster, NodeProcess, started, wait_until
from bench.put import CONNECTIONS, packets


class SampledNode(NodeProcess):
    """A node that counts what it does."""

    @property
    def samples(self) -> Path:
        return self.data_dir.with_name(self.data_dir.name + ".samples")

    def command(self) -> list[str]:
        arguments = super().command()
        arguments[arguments.index("aspen.cli.main")] = "bench.sampled"
        return arguments

    def environment(self) -> dict[str, str]:
        return super().environment() | {"ASPEN_BENCH_SAMPLES": str(self.samples)}


@contextmanager
def sampled(folder: Path, size: int) -> Iterator[Cluster]:
    cluster = Cluster(folder, size, profile="default", own_sessions=False)
    for node in cluster:
        node.__class__ = SampledNode
    with started(cluster):
        yield cluster


def bench(size: int, folder: Path, seconds: int) -> None:
    with sampled(folder / "nodes", size) as cluster:
        leader = cluster.leader()
        assert isinstance(leader, SampledNode)
        make = packets(leader)
        result = load.run(
            leader.addr, make(seconds * 12_000), folder, connections=CONNECTIONS, seconds=seconds
        )
        assert leader.process is not None
        leader.process.send_signal(signal.SIGTERM)
        wait_until(leader.samples.exists, "the leader has written what it did", 15)
        counts = json.loads(leader.samples.read_text())
    total = sum(counts.values()) or 1
    shares = ", ".join(f"{part} {100 * counts.get(part, 0) / total:.0f} %" for part in [*dict(PARTS), OTHER])
    print(f"# put_{size}node at {result.rps:.0f} PUT/s while sampled: {shares}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.shares", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--sizes", default="1,3", help="cluster sizes, separated by commas")
    options = parser.parse_args()
    if not load.available():
        print("# shares: needs wrk (Debian: apt-get install wrk)", file=sys.stderr)
        return 1
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="aspen-bench-") as folder:
            bench(size, Path(folder), options.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
