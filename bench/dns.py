"""DNS answers of our UDP worker beside Knot's (and NSD's): queries a second, CPU time for each.

    python -m bench.dns [--seconds 4] [--rounds 3] [hot million writes flood cookies workers zone …]

- `hot`: 10,000 names `_iroh.<key>.aspen.local TXT`, asked at random; beside Knot and NSD.
- `million`: the same with 1,000,000 packets, names drawn anew for each query; also the time from the start
  of the process to the first answer, and the memory that is the server's own.
- `writes`: `hot` while 300 packets a second change, each by a commit of its own, as the node's writer does
  it; beside our own figure without. Half of the changed names are asked for. p99 at 20,000 queries a second.
- `flood`: random names that don't exist; and what another client meets meanwhile, asking for hot names.
- `cookies`: queries as dig writes them, with a fresh client cookie each; beside Knot with its cookies on.
- `workers`: two workers on two cores. dnsperf needs a core as well, so what is compared is CPU time per query
  with one worker and with two: twice the ratio is how the rate scales where cores are not short.
- `zone`: 100,000 names of an authored zone, drawn at random.

The server is pinned to core 0, dnsperf to core 1. dnsperf itself is hardly faster than the servers, so
`cpu_us`, the server's CPU time (user and system) for each query answered, says more than the rate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from aspen.state.packet_commands import PacketPut
from aspen.state.status_page import StatusPage
from aspen.state.store import Store
from aspen.z32 import encode_key
from bench import dns_load as load
from bench.dns_servers import (
    PEERS,
    Data,
    Server,
    apply,
    aspen,
    aspen_over,
    fill,
    make_keys,
    make_message,
    own_memory_mib,
    pin,
)

HOT = 10_000
MILLION = 1_000_000
ZONE_NAMES = 100_000
WRITES_PER_S = 300
PACED_QPS = 20_000


class Bench:
    """One scenario's folder and lengths."""

    def __init__(self, folder: Path, seconds: int, rounds: int) -> None:
        self.folder, self.seconds, self.rounds = folder, seconds, rounds

    def make(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        return path

    def compare(
        self, name: str, data: Data, asked: load.Load, peer: str = "knot", **peer_options: Any
    ) -> None:
        """Ours and a peer's figures over the same data."""
        start_peer, program = PEERS[peer]
        if shutil.which(program) is None:
            print(f"# skipped: {program} is not installed")
            return
        with ExitStack() as stack:
            ours = stack.enter_context(aspen(self.make(f"aspen-{peer}"), data))
            theirs = stack.enter_context(start_peer(self.make(peer), data, **peer_options))
            both = (ours, theirs)
            on_core(both)
            figures = load.rounds_of(both, asked, self.seconds, self.rounds)
            load.report_both(name, figures["aspen"], figures[peer], peer)
            if len(data.keys) == MILLION:
                load.report(f"{name}_start_ms", ours.start_ms, theirs.start_ms, peer, 0)
                load.report(f"{name}_memory_mib", *map(own_memory_mib, (ours.pids, theirs.pids)), peer, 1)


def on_core(servers: tuple[Server, ...]) -> None:
    for server in servers:
        for pid in server.pids:
            pin(pid, load.SERVER_CORE)


def hot(bench: Bench) -> None:
    data = Data(make_keys(HOT))
    asked = load.hot_queries(bench.folder / "queries", data.keys)
    for peer in PEERS:
        bench.compare("dns_hot" if peer == "knot" else f"dns_hot_{peer}", data, asked, peer)


def million(bench: Bench) -> None:
    data = Data(make_keys(MILLION))
    bench.compare("dns_million", data, load.random_queries(bench.folder / "queries", data.keys, MILLION))
    with aspen(bench.make("small"), Data(make_keys(HOT))) as small, ExitStack() as stack:
        store = Store.open(bench.folder / "aspen-knot")
        again = stack.enter_context(aspen_over(store, bench.folder / "aspen-knot"))
        load.report("dns_million_start_of_10000_ms", again.start_ms, small.start_ms, "10,000 packets", 0)


def writes(bench: Bench) -> None:
    data = Data(make_keys(HOT))
    asked = load.hot_queries(bench.folder / "queries", data.keys)
    folder = bench.make("aspen")
    store = Store.open(folder)
    fill(store, data)
    runs: dict[str, list[load.Figures]] = {"idle": [], "busy": []}
    with aspen_over(store, folder) as server:
        on_core((server,))
        load.dnsperf(server, asked, 1)
        for _ in range(bench.rounds):
            runs["idle"].append(load.dnsperf(server, asked, bench.seconds))
            with writing(folder, data):
                runs["busy"].append(load.dnsperf(server, asked, bench.seconds))
        with writing(folder, data):
            paced = load.dnsperf(server, asked, bench.seconds, qps=PACED_QPS, latencies=True)
    idle, busy = load.medians(runs["idle"]), load.medians(runs["busy"])
    load.report_both("dns_writes", busy, idle, "without writes")
    load.report("dns_writes_p99_ms", paced.p99_ms, 2, "the bound", 2)
    load.report("dns_writes_lost", max(run.lost for run in (*runs["busy"], paced)), 0, "none", 4)


@contextmanager
def writing(folder: Path, data: Data) -> Iterator[None]:
    """A process that changes packets as the node's writer does, `WRITES_PER_S` commits a second."""
    context = multiprocessing.get_context("spawn")  # LMDB must not be forked
    process = context.Process(target=write, args=(folder, data.keys), daemon=True)
    process.start()
    time.sleep(1)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def write(folder: Path, keys: list[bytes]) -> None:
    os.sched_setaffinity(0, {load.LOAD_CORE})
    store, page = Store.open(folder), StatusPage.open(folder / "status.page")
    strangers = make_keys(2 * len(keys))[len(keys) :]
    due = time.monotonic()
    for number in range(1_000_000):
        key = (keys if number % 2 else strangers)[number // 2 % len(keys)]
        payload = bytes(64) + time.time_ns().to_bytes(8, "big") + make_message(encode_key(key))
        page.note_changes(apply(store, [PacketPut(key, payload)]))
        due += 1 / WRITES_PER_S
        time.sleep(max(0.0, due - time.monotonic()))


def flood(bench: Bench) -> None:
    data = Data(make_keys(HOT))
    asked = load.hot_queries(bench.folder / "hot", data.keys)
    missing = load.missing_queries(bench.folder / "missing", MILLION)
    bench.compare("dns_flood", data, missing)
    with aspen(bench.make("aspen"), data) as server:
        on_core((server,))
        command = [sys.executable, "-m", "bench.dns", "--seconds", str(bench.seconds + 2)]
        command += ["--flood", str(server.port), str(missing.queries)]
        other = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)
            figures = load.dnsperf(server, asked, bench.seconds, qps=1_000, latencies=True)
        finally:
            other.wait()
    load.report("dns_flood_others_p99_ms", figures.p99_ms, 2, "the bound", 2)
    load.report("dns_flood_others_lost", figures.lost, 0, "none", 4)


def cookies(bench: Bench) -> None:
    data = Data(make_keys(HOT))
    asked = load.cookie_queries(bench.folder / "queries", data.keys, 1_500_000)
    bench.compare("dns_cookies", data, asked, cookies=True)


def workers(bench: Bench) -> None:
    data = Data(make_keys(HOT))
    asked = load.hot_queries(bench.folder / "queries", data.keys)
    with aspen(bench.make("one"), data) as one, aspen(bench.make("two"), data, workers=2) as two:
        on_core((one,))
        for core, pid in enumerate(two.pids):
            pin(pid, core)
        runs: dict[str, list[load.Figures]] = {"one": [], "two": []}
        for _ in range(bench.rounds):
            for name, server in (("one", one), ("two", two)):
                runs[name].append(load.dnsperf(server, asked, bench.seconds))
    single, double = load.medians(runs["one"]), load.medians(runs["two"])
    load.report_both("dns_workers", double, single, "one worker")
    load.report("dns_workers_scale", 2 * single.cpu_us / double.cpu_us, 2, "workers", 2)


def zone(bench: Bench) -> None:
    data = Data(make_keys(10), ZONE_NAMES)
    bench.compare("dns_zone", data, load.zone_queries(bench.folder / "queries", ZONE_NAMES, MILLION))


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    each.__name__: each for each in (hot, million, writes, flood, cookies, workers, zone)
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=", ".join(SCENARIOS))
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flood", nargs=2, metavar=("PORT", "QUERIES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if shutil.which("dnsperf") is None:
        print("# skipped: dnsperf is not installed")
        return 0
    if arguments.flood:
        port, queries = arguments.flood
        server = Server("flooded", int(port), ())
        load.dnsperf(server, load.Load(Path(queries), rcodes=("NXDOMAIN",)), arguments.seconds)
        return 0
    unknown = set(arguments.scenarios) - SCENARIOS.keys()
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    for name in arguments.scenarios or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="aspen-bench-") as folder:
            SCENARIOS[name](Bench(Path(folder), arguments.seconds, arguments.rounds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
