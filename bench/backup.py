"""Backups: how long a node takes for one of a million packets, how large it is, and what others notice.

    python -m bench.backup [--packets 1000000] [--damage 20]

One real node with one UDP worker; packets go straight into its store while it is stopped. Then `aspen
cluster backup`, `verify` and `restore` run by the command line while DNS is asked and keys are written all
the time, each every ten milliseconds; first the same for a while without a backup.

- `backup_<n>_s`, `_mb`: the command's time, and the file's size; the time of `verify` and `restore`.
- `backup_<n>_node_mib`: the most that the node's anonymous memory grew meanwhile.
- `backup_<n>_dns_ms`, `_put_ms`: median and slowest answer meanwhile; `idle` before it.
- `backup_<n>_flips_refused`, `_cuts_refused`: how many damaged copies were refused at the right place
  (`bench.backup_damage`), with `--damage`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench import backup_damage
from bench.nodes import NodeProcess, running, sign, wait_until
from bench.snapshot import SAMPLE_S, Watch, answers, fill

IDLE_S = 5.0


class Writes:
    """Keys put one after the other, and how long each took."""

    def __init__(self, node: NodeProcess) -> None:
        self.took_s: list[tuple[float, float]] = []
        self._node = node
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            started = time.perf_counter()
            assert self._node.request("PUT", "/v1/kv/bench", b"x").status == 200
            self.took_s.append((time.time(), time.perf_counter() - started))

    def __enter__(self) -> Writes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def told(samples: list[tuple[float, float]], begin: float, end: float) -> str:
    took = [took * 1000 for at, took in samples if begin <= at <= end]
    return f"{statistics.median(took):.1f} / {max(took):.1f}"


def aspen(*arguments: str) -> float:
    """Run a command; its seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "aspen.cli.main", "cluster", *arguments], check=True, capture_output=True
    )
    return time.perf_counter() - started


def bench(folder: Path, count: int, damage: int = 0) -> None:
    with running(folder / "nodes", 1, profile="default", own_sessions=False) as cluster:
        node = cluster.nodes[0]
        known = sign("relay=https://relay.example./")
        wait_until(lambda: node.put(known).status == 204, "a packet is taken")
        node.stop()
        fill(node.data_dir, count)
        node.start()
        wait_until(lambda: answers(node, known), "the node answers")
        node.wait_ready(60)
        name = f"backup_{count // 1_000_000}m" if count % 1_000_000 == 0 else f"backup_{count}"
        file = folder / "aspen.backup"
        with Watch([node], node, known.name()) as watch, Writes(node) as writes:
            first = time.time()
            time.sleep(IDLE_S)
            begin = time.time()
            seconds = aspen("backup", str(file), "--addr", node.addr)
            end = time.time()
        print(f"bench: {name}_s aspen={seconds:.1f}")
        print(f"bench: {name}_mb aspen={file.stat().st_size / 1e6:.0f}")
        print(f"bench: {name}_node_mib aspen={watch.growth_mib(node, begin, end):.1f}")
        for what, samples in (("dns", watch.dns_s), ("put", writes.took_s)):
            idle, busy = told(samples, first, begin), told(samples, begin, end)
            print(f"bench: {name}_{what}_ms aspen={busy} idle={idle} (median / slowest)")
        print(f"bench: {name}_verify_s aspen={aspen('verify', str(file)):.1f}")
        restored = aspen("restore", str(file), "--data-dir", str(folder / "restored"), "--node-id", "1")
        print(f"bench: {name}_restore_s aspen={restored:.1f}", flush=True)
    if damage:
        backup_damage.bench(file, name, damage)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.backup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument(
        "--damage", type=int, default=0, metavar="PLACES", help="Cut it short and flip bits at so many."
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aspen-bench-") as folder:
        bench(Path(folder), options.packets, options.damage)
    return 0


if __name__ == "__main__":
    sys.exit(main())
