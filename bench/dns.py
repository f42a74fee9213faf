"""DNS answers: queries a second of one UDP worker, and CPU time for each, beside Knot's (and NSD's).

    python -m bench.dns [--names 10000] [--seconds 5] [--rounds 3] [--peer knot|nsd]

- `dns_hot_qps`: 10,000 names `_iroh.<key>.aspen.local TXT` asked at random by dnsperf: 20 clients, at most
  200 queries under way. Our worker reads a real store; the peer serves the same names as a zone.
- `dns_hot_cpu_us`: the server's CPU time (user and system) for each query answered. On loopback one core
  of dnsperf is hardly faster than either server, so this says more than the rate.
The server is pinned to core 0, dnsperf to core 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from aspen.dns.lookup import DnsSettings
from aspen.dns.sockets import bind_udp, bind_udp_and_tcp
from aspen.dns.udp import UdpWorkers
from aspen.state.apply import ApplyContext
from aspen.state.packet_commands import PacketPut
from aspen.state.packets import apply_packet_put
from aspen.state.status_page import StatusPage
from aspen.state.store import Store
from aspen.z32 import encode_key

HOST = "127.0.0.1"
ORIGIN = "aspen.local"
SERVER_CORE, LOAD_CORE = 0, 1
START_S = 20
TEXTS = (b"relay=https://use1-1.relay.example./", b"addr=192.0.2.17:41203")
TTL = 30


@dataclass(frozen=True)
class Figures:
    """One run of dnsperf against one server."""

    qps: float
    cpu_us: float


@dataclass(frozen=True)
class Server:
    name: str
    port: int
    pid: int


def make_keys(count: int) -> list[bytes]:
    rng = random.Random(7)
    return [rng.randbytes(32) for _ in range(count)]


def make_message(z32: str) -> bytes:
    """The DNS message an iroh endpoint signs."""
    owner = b"\x05_iroh\x34" + z32.encode() + b"\x00"
    records = b""
    for text in TEXTS:
        fixed = b"\x00\x10\x00\x01" + TTL.to_bytes(4, "big") + (len(text) + 1).to_bytes(2, "big")
        records += (owner if not records else b"\xc0\x0c") + fixed + bytes((len(text),)) + text
    return bytes(2) + b"\x84\x00\x00\x00" + len(TEXTS).to_bytes(2, "big") + bytes(4) + records


@contextmanager
def aspen(folder: Path, keys: list[bytes]) -> Iterator[Server]:
    """One worker over a store that holds a packet for each key."""
    store = Store.open(folder)
    page = StatusPage.create(folder / "status.page", workers=1)
    for start in range(0, len(keys), 10_000):
        with store.write() as txn:
            for key in keys[start : start + 10_000]:
                payload = bytes(64) + (1).to_bytes(8, "big") + make_message(encode_key(key))
                apply_packet_put(ApplyContext(store, txn, 1, 1), PacketPut(key, payload))
    sockets = bind_udp(HOST, 0, 1)
    port = sockets[0].getsockname()[1]
    udp = UdpWorkers(folder, sockets, DnsSettings(origins=(ORIGIN,)), folder / "status.page")
    with asyncio.Runner() as runner:
        runner.run(udp.start())
        try:
            yield Server("aspen", port, udp.pids[0])
        finally:
            runner.run(udp.close())
            page.close()
            store.close()


def write_zone(path: Path, keys: list[bytes]) -> None:
    """The same names as a zone file."""
    lines = [
        f"$ORIGIN {ORIGIN}.",
        "@ 3600 IN SOA ns1 hostmaster 1 3600 600 604800 60",
        "@ 3600 IN NS ns1",
        "ns1 3600 IN A 127.0.0.1",
    ]
    for key in keys:
        z32 = encode_key(key)
        lines += [f'_iroh.{z32} {TTL} IN TXT "{text.decode()}"' for text in TEXTS]
    path.write_text("\n".join(lines) + "\n")


@contextmanager
def knot(folder: Path, keys: list[bytes]) -> Iterator[Server]:
    port = free_port()
    write_zone(folder / "zone", keys)
    config = folder / "knot.conf"
    config.write_text(
        f"""
server:
    rundir: "{folder}"
    listen: {HOST}@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "{folder}/db"
log:
  - target: stderr
    any: error
zone:
  - domain: {ORIGIN}
    file: "{folder}/zone"
    journal-content: none
    zonefile-sync: -1
"""
    )
    with started("knot", ["knotd", "-c", str(config)], port) as server:
        yield server


@contextmanager
def nsd(folder: Path, keys: list[bytes]) -> Iterator[Server]:
    port = free_port()
    write_zone(folder / "zone", keys)
    config = folder / "nsd.conf"
    config.write_text(
        f"""
server:
    server-count: 1
    ip-address: {HOST}@{port}
    username: ""
    chroot: ""
    zonesdir: "{folder}"
    database: ""
    pidfile: "{folder}/nsd.pid"
    xfrdfile: "{folder}/xfrd.state"
    xfrdir: "{folder}"
    zonelistfile: "{folder}/zone.list"
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: {ORIGIN}
    zonefile: zone
"""
    )
    with started("nsd", ["nsd", "-d", "-c", str(config)], port) as server:
        yield server


PEERS = {"knot": (knot, "knotd"), "nsd": (nsd, "nsd")}


@contextmanager
def started(name: str, command: list[str], port: int) -> Iterator[Server]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        yield Server(name, port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that is free for UDP and TCP."""
    udp, tcp = bind_udp_and_tcp(HOST, 0, 1)
    port = int(tcp.getsockname()[1])
    for sock in (*udp, tcp):
        sock.close()
    return port


def wait_until_answering(server: Server, key: bytes) -> None:
    labels = [b"_iroh", encode_key(key).encode(), *ORIGIN.encode().split(b".")]
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\x00"
    query = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + name + b"\x00\x10\x00\x01"
    deadline = time.monotonic() + START_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                sock.sendto(query, (HOST, server.port))
                reply = sock.recv(4_096)
            except OSError:
                time.sleep(0.05)
                continue
            if reply[:2] == query[:2] and int.from_bytes(reply[6:8], "big") == len(TEXTS):
                return
    raise RuntimeError(f"{server.name} doesn't answer")


def family(pid: int) -> list[int]:
    """A process and its descendants (NSD answers in a child)."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid] + [descendant for child in children for descendant in family(child)]


def pin(pid: int, core: int) -> None:
    for process in family(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def cpu_s(pid: int) -> float:
    """CPU time, user and system, of a process and its descendants so far."""
    ticks = 0
    for process in family(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def run_dnsperf(server: Server, names: Path, seconds: int) -> Figures:
    command = ["taskset", "-c", str(LOAD_CORE), "dnsperf", "-s", HOST, "-p", str(server.port)]
    command += ["-d", str(names), "-l", str(seconds), "-c", "20", "-T", "1", "-q", "200"]
    before = cpu_s(server.pid)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    spent = cpu_s(server.pid) - before

    def said(pattern: str) -> float:
        found = re.search(pattern, done.stdout)
        if found is None:
            raise RuntimeError(f"dnsperf said: {done.stdout}")
        return float(found[1])

    completed = said(r"Queries completed:\s+(\d+)")
    lost = said(r"Queries lost:\s+(\d+)")
    if "NOERROR" not in done.stdout or re.search(r"SERVFAIL|NXDOMAIN|REFUSED", done.stdout):
        raise RuntimeError(f"{server.name}: not a clean run: {done.stdout}")
    if lost > completed / 1_000:
        print(f"# {server.name}: {lost:.0f} of {completed:.0f} queries lost")
    return Figures(said(r"Queries per second:\s+([\d.]+)"), spent / completed * 1e6)


def write_queries(path: Path, keys: list[bytes]) -> None:
    names = [f"_iroh.{encode_key(key)}.{ORIGIN} TXT" for key in keys]
    random.Random(11).shuffle(names)
    path.write_text("\n".join(names) + "\n")


def compare(peer: str, folder: Path, count: int, seconds: int, rounds: int) -> None:
    """Run both in turn and print the medians."""
    keys = make_keys(count)
    queries = folder / "queries"
    write_queries(queries, keys)
    start_peer, _ = PEERS[peer]
    for name in ("aspen", peer):
        (folder / name).mkdir()
    (folder / peer / "db").mkdir()
    with aspen(folder / "aspen", keys) as ours, start_peer(folder / peer, keys) as theirs:
        measured: dict[str, list[Figures]] = {}
        for server in (ours, theirs):
            wait_until_answering(server, keys[-1])
            pin(server.pid, SERVER_CORE)
            run_dnsperf(server, queries, 1)  # warm
        for _ in range(rounds):
            for server in (ours, theirs):
                measured.setdefault(server.name, []).append(run_dnsperf(server, queries, seconds))
    for figure, digits in (("qps", 0), ("cpu_us", 2)):
        x, y = (median(getattr(one, figure) for one in measured[name]) for name in ("aspen", peer))
        label = f"dns_hot_{figure}"
        print(
            f"bench: {label} aspen={x:.{digits}f} peer={y:.{digits}f} ({peer}) ratio={x / y:.2f}", flush=True
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", choices=[*PEERS, "all"], default="knot")
    arguments = parser.parse_args()
    if shutil.which("dnsperf") is None:
        print("# skipped: dnsperf is not installed")
        return 0
    for peer in PEERS if arguments.peer == "all" else [arguments.peer]:
        program = PEERS[peer][1]
        if shutil.which(program) is None:
            print(f"# skipped: {program} is not installed")
            continue
        with tempfile.TemporaryDirectory(prefix="aspen-bench-") as folder:
            compare(peer, Path(folder), arguments.names, arguments.seconds, arguments.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
