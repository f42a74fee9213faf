"""Snapshots: how long a member takes to receive and install a state of a million packets, and in what memory.

    python -m bench.snapshot [--packets 1000000]

Two real nodes on loopback. Both write until the leader has cut the head off its log; then, with both
stopped, packets go straight into the leader's store, and the other node loses its data but for its key. It
comes back with nothing and has to be sent all of it.

- `snapshot_<n>_s`: from the beginning of the transfer until the state is installed and durable, as the
  receiver logs it; `…_mb_s` counts keys and values.
- `snapshot_<n>_sender_mib`, `…_receiver_mib`: the most that the anonymous memory of each node grew meanwhile.
- `snapshot_<n>_dns_ms`: the slowest answer of the sender's DNS meanwhile, asked every ten milliseconds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import dns.exception

from aspen.state.packet_commands import PacketPut
from aspen.state.store import STATE_TABLES, Store
from aspen.z32 import encode_key
from bench.dns_servers import apply, make_keys, make_message
from bench.nodes import NodeProcess, Published, running, sign, wait_until

KEEP_ENTRIES = 20
ENTRIES = 1_100  # enough for the log to be cut
BEGIN, END = "snapshot transfer begins", "snapshot installed"
SAMPLE_S = 0.01
COMMIT_PACKETS = 20_000


def anonymous_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


class Watch:
    """Samples the nodes' memory and the time DNS takes, with wall-clock times."""

    def __init__(self, nodes: list[NodeProcess], asked: NodeProcess, name: str) -> None:
        self.memory: dict[int, list[tuple[float, int]]] = {node.node_id: [] for node in nodes}
        self.dns_s: list[tuple[float, float]] = []
        self._nodes, self._asked, self._name = nodes, asked, name
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._weigh, self._ask)]

    def _weigh(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            for node in self._nodes:
                self.memory[node.node_id].append((time.time(), anonymous_kib(node.pid)))

    def _ask(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            started = time.perf_counter()
            self._asked.dig(self._name)
            self.dns_s.append((time.time(), time.perf_counter() - started))

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def growth_mib(self, node: NodeProcess, begin: float, end: float) -> float:
        samples = self.memory[node.node_id]
        before = [kib for at, kib in samples if at <= begin] or [samples[0][1]]
        return (max(kib for at, kib in samples if begin <= at <= end) - before[-1]) / 1024

    def slowest_dns_ms(self, begin: float, end: float) -> float:
        return max(took for at, took in self.dns_s if begin <= at <= end) * 1000


def fill(data_dir: Path, count: int) -> int:
    """Put packets straight into a store; the bytes of keys and values it then holds."""
    store = Store.open(data_dir)
    keys, rng = make_keys(count), random.Random(8)
    for start in range(0, count, COMMIT_PACKETS):
        apply(store, [_put(key, rng.randbytes(64)) for key in keys[start : start + COMMIT_PACKETS]])
    with store.read() as txn:
        size = sum(
            len(key) + len(value) for name in STATE_TABLES for key, value in txn.cursor(db=store.tables[name])
        )
    store.close()
    return size


def _put(key: bytes, signature: bytes) -> PacketPut:
    return PacketPut(key, signature + (1).to_bytes(8, "big") + make_message(encode_key(key)))


def logged_at(node: NodeProcess, event: str, start: int) -> float | None:
    """When the node last logged the event, after byte `start` of its log."""
    found = None
    with open(node.log_path, "rb") as file:
        file.seek(start)
        for line in file:
            if event.encode() in line and line.endswith(b"\n"):
                found = json.loads(line)["timestamp"]
    return None if found is None else datetime.fromisoformat(found).timestamp()


def answers(node: NodeProcess, packet: Published) -> bool:
    try:
        return node.resolves(packet)
    except (OSError, dns.exception.DNSException):
        return False


def forget_all(node: NodeProcess) -> None:
    """The node keeps its key and nothing else."""
    for path in node.data_dir.glob("state-*/*"):
        path.unlink()
    for path in node.data_dir.glob("state-*"):
        path.rmdir()
    (node.data_dir / "current").unlink()


def bench(folder: Path, count: int) -> None:
    settings = {"ASPEN_LOG_KEEP_ENTRIES": str(KEEP_ENTRIES)}
    with running(folder, 2, profile="default", own_sessions=False, settings=settings) as cluster:
        sender, receiver = cluster.nodes
        known = sign("relay=https://relay.example./")
        wait_until(lambda: sender.put(known).status == 204, "a leader takes a packet")
        for number in range(ENTRIES):
            assert sender.request("PUT", "/v1/kv/filler", b"%d" % number).status in (200, 201, 204)
        cluster.wait_caught_up()
        for node in cluster:
            node.stop()
        forget_all(receiver)
        size_bytes = fill(sender.data_dir, count)
        mark = receiver.log_path.stat().st_size
        sender.start()
        wait_until(lambda: answers(sender, known), "the sender's worker")
        receiver.start()
        with Watch([sender, receiver], sender, known.name()) as watch:
            wait_until(lambda: logged_at(receiver, END, mark), "the snapshot is installed", 600, poll_s=0.1)
        begin, end = logged_at(receiver, BEGIN, mark), logged_at(receiver, END, mark)
        assert begin is not None
        assert end is not None
        cluster.wait_ready(60)
        assert receiver.stored(known)
        name = f"snapshot_{count // 1_000_000}m" if count % 1_000_000 == 0 else f"snapshot_{count}"
        print(f"bench: {name}_s aspen={end - begin:.2f}")
        print(f"bench: {name}_mb_s aspen={size_bytes / 1e6 / (end - begin):.1f} ({size_bytes / 1e6:.0f} MB)")
        print(f"bench: {name}_sender_mib aspen={watch.growth_mib(sender, begin, end):.1f}")
        print(f"bench: {name}_receiver_mib aspen={watch.growth_mib(receiver, begin, end):.1f}")
        print(f"bench: {name}_dns_ms aspen={watch.slowest_dns_ms(begin, end):.1f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.snapshot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--packets", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aspen-bench-") as folder:
        bench(Path(folder), options.packets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
