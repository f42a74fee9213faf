"""The DNS servers of the benchmark: our worker over a store of its own, Knot, NSD; started and ended by pid.

Every server holds the same data: a packet for each key (for the peers, the same names in a zone), or
an authored zone.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from aspen.dns.cookie_secret import SETTING
from aspen.dns.cookies import CookieSecrets
from aspen.dns.lookup import DnsSettings
from aspen.dns.packet_zone import build_ready_answers
from aspen.dns.sockets import bind_udp, bind_udp_and_tcp
from aspen.dns.udp import UdpWorkers
from aspen.dns.zone_rules import ZoneRecord
from aspen.limits import ZONE_STAGE_RECORDS
from aspen.state.commands import Rejected, encode_command
from aspen.state.machine import Machine
from aspen.state.packets import PacketRecord, encode_record
from aspen.state.settings import SettingPut
from aspen.state.status_page import StatusPage
from aspen.state.store import Store
from aspen.state.zone_commands import ZoneActivate, ZoneResult, ZoneStage, ZoneStatus
from aspen.z32 import encode_key

HOST = "127.0.0.1"
ORIGIN = "aspen.local"
ZONE = "zone.test"
START_S = 60
TEXTS = (b"relay=https://use1-1.relay.example./", b"addr=192.0.2.17:41203")
TTL = 30
TEMPLATE_Z32 = "y" * 52


@dataclass(frozen=True)
class Server:
    name: str
    port: int
    pids: tuple[int, ...]
    """Processes whose descendants, too, are the server."""
    start_ms: float = 0.0
    """From the start of the process to the first answer."""


@dataclass(frozen=True)
class Data:
    """What a server is to hold."""

    keys: Sequence[bytes] = ()
    zone_names: int = 0
    """Of `ZONE`: names `h<i>.zone.test` with an A record each."""


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


def fill(store: Store, data: Data) -> None:
    """What PUTs and an import would leave for DNS in the store, written at once."""
    secret = msgspec.msgpack.encode(CookieSecrets(bytes(range(16)), bytes(16)))
    apply(store, [SettingPut(SETTING, secret)])
    message = make_message(TEMPLATE_Z32)
    # Owners and targets are kept relative to the key: the block is the same for every key.
    answers = build_ready_answers(message, TEMPLATE_Z32.encode())
    record = PacketRecord(bytes(32), 1, time.time_ns() // 1_000_000, False, answers, b"")
    keys = sorted(data.keys)
    for start in range(0, len(keys), 50_000):
        with store.write() as txn:
            for key in keys[start : start + 50_000]:
                payload = bytes(64) + (1).to_bytes(8, "big")
                payload += message.replace(TEMPLATE_Z32.encode(), encode_key(key).encode())
                value = encode_record(record._replace(public_key=key, payload=payload))
                txn.put(key, value, db=store.tables["packets"], append=True)
    if data.zone_names:
        _fill_zone(store, data.zone_names)


def _fill_zone(store: Store, names: int) -> None:
    apex = wire_name(ZONE)
    numbers = struct.pack(">IIIII", 1, 3_600, 600, 604_800, 60)
    records = [
        ZoneRecord(apex, 6, 3_600, wire_name(f"ns1.{ZONE}") + wire_name(f"hostmaster.{ZONE}") + numbers),
        ZoneRecord(apex, 2, 3_600, wire_name(f"ns1.{ZONE}")),
        ZoneRecord(wire_name(f"ns1.{ZONE}"), 1, 3_600, b"\x7f\x00\x00\x01"),
        *(ZoneRecord(wire_name(f"h{i}.{ZONE}"), 1, 300, i.to_bytes(4, "big")) for i in range(names)),
    ]
    chunks = [
        tuple(records[start : start + ZONE_STAGE_RECORDS])
        for start in range(0, len(records), ZONE_STAGE_RECORDS)
    ]
    for number, chunk in enumerate(chunks):
        apply(store, [ZoneStage(b"bench" * 3 + b"!", apex, number, chunk)])
    apply(store, [ZoneActivate(b"bench" * 3 + b"!", len(chunks))])


def apply(store: Store, commands: Sequence[object]) -> set[bytes] | None:
    """Commands as the writer applies them; what they changed."""
    machine = Machine(store)
    with store.write() as txn:
        machine.begin(txn)
        for command in commands:
            result = machine.apply(txn, 1, time.time_ns() // 1_000_000, encode_command(command))
            if isinstance(result, Rejected) or (
                isinstance(result, ZoneResult) and result.status is not ZoneStatus.DONE
            ):
                raise RuntimeError(f"not taken: {result}")
        machine.end(txn)
    return machine.take_dns_changes()


def wire_name(text: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".")) + b"\x00"


@contextmanager
def aspen(folder: Path, data: Data, workers: int = 1) -> Iterator[Server]:
    """Workers over a store that holds the data."""
    store = Store.open(folder)
    fill(store, data)
    with aspen_over(store, folder, workers) as server:
        yield server


@contextmanager
def aspen_over(store: Store, folder: Path, workers: int = 1) -> Iterator[Server]:
    page = StatusPage.create(folder / "status.page", workers=workers)
    sockets = bind_udp(HOST, 0, workers)
    port = sockets[0].getsockname()[1]
    udp = UdpWorkers(folder, sockets, DnsSettings(origins=(ORIGIN,)), folder / "status.page")
    with asyncio.Runner() as runner:
        started_at = time.monotonic()
        runner.run(udp.start())
        try:
            yield started(Server("aspen", port, tuple(udp.pids)), started_at)
        finally:
            runner.run(udp.close())
            page.close()
            store.close()


def write_zone(path: Path, origin: str, lines: Iterator[str]) -> None:
    with open(path, "w") as file:
        file.write(f"$ORIGIN {origin}.\n@ 3600 IN SOA ns1 hostmaster 1 3600 600 604800 60\n")
        file.write("@ 3600 IN NS ns1\nns1 3600 IN A 127.0.0.1\n")
        file.writelines(lines)


def write_zones(folder: Path, data: Data) -> list[tuple[str, Path]]:
    """The same data as zone files; each with its origin."""
    zones = [(ORIGIN, folder / "keys.zone")]
    pairs = ((encode_key(key), text.decode()) for key in data.keys for text in TEXTS)
    write_zone(folder / "keys.zone", ORIGIN, (f'_iroh.{z32} {TTL} IN TXT "{text}"\n' for z32, text in pairs))
    if data.zone_names:
        hosts = (
            f"h{i} 300 IN A {'.'.join(map(str, i.to_bytes(4, 'big')))}\n" for i in range(data.zone_names)
        )
        write_zone(folder / "authored.zone", ZONE, hosts)
        zones.append((ZONE, folder / "authored.zone"))
    return zones


@contextmanager
def knot(folder: Path, data: Data, workers: int = 1, *, cookies: bool = False) -> Iterator[Server]:
    port = free_port()
    (folder / "db").mkdir()
    template = "template:\n  - id: default\n    global-module: mod-cookies\n" if cookies else ""
    zones = "".join(
        f"  - domain: {origin}\n    file: {path}\n    journal-content: none\n    zonefile-sync: -1\n"
        for origin, path in write_zones(folder, data)
    )
    (folder / "knot.conf").write_text(
        f"""
server:
    rundir: "{folder}"
    listen: {HOST}@{port}
    udp-workers: {workers}
    tcp-workers: 1
    background-workers: 1
database:
    storage: "{folder}/db"
log:
  - target: stderr
    any: error
{template}
zone:
{zones}"""
    )
    with run("knot", ["knotd", "-c", str(folder / "knot.conf")], port) as server:
        yield server


@contextmanager
def nsd(folder: Path, data: Data, workers: int = 1) -> Iterator[Server]:
    port = free_port()
    zones = "".join(
        f"zone:\n    name: {origin}\n    zonefile: {path}\n" for origin, path in write_zones(folder, data)
    )
    (folder / "nsd.conf").write_text(
        f"""
server:
    server-count: {workers}
    ip-address: {HOST}@{port}
    username: ""
    chroot: ""
    zonesdir: "{folder}"
    database: ""
    pidfile: "{folder}/nsd.pid"
    xfrdfile: "{folder}/xfrd.state"
    xfrdir: "{folder}"
    zonelistfile: "{folder}/zone.list"
    logfile: "{folder}/nsd.log"
    rrl-ratelimit: 0
remote-control:
    control-enable: no
{zones}"""
    )
    with run("nsd", ["nsd", "-d", "-c", str(folder / "nsd.conf")], port) as server:
        yield server


Start = Callable[[Path, Data], "Iterator[Server]"]
PEERS = {"knot": (knot, "knotd"), "nsd": (nsd, "nsd")}


@contextmanager
def run(name: str, command: list[str], port: int) -> Iterator[Server]:
    started_at = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        yield started(Server(name, port, (process.pid,)), started_at)
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


def started(server: Server, started_at: float) -> Server:
    """The server, once it answers. Raises `RuntimeError` if it doesn't in `START_S`."""
    query = b"\x12\x34\x00\x00\x00\x01" + bytes(6) + wire_name(ORIGIN) + b"\x00\x06\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.02)
        while time.monotonic() < started_at + START_S:
            try:
                sock.sendto(query, (HOST, server.port))
                reply = sock.recv(4_096)
            except OSError:
                time.sleep(0.005)
                continue
            if reply[:2] == query[:2] and reply[7] == 1:
                return replace(server, start_ms=(time.monotonic() - started_at) * 1e3)
    raise RuntimeError(f"{server.name} doesn't answer")


def family(pid: int) -> list[int]:
    """A process and its descendants (NSD answers in a child)."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid] + [descendant for child in children for descendant in family(child)]


def pin(pid: int, core: int) -> None:
    for process in family(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def cpu_s(pids: Sequence[int]) -> float:
    """CPU time, user and system, of processes and their descendants so far."""
    ticks = 0
    for process in (member for pid in pids for member in family(pid)):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def own_memory_mib(pids: Sequence[int]) -> float:
    """Memory that processes have for themselves: not what they map of files."""
    kib = 0
    for process in (member for pid in pids for member in family(pid)):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                kib += int(line.split()[1])
    return kib / 1_024
