"""Knot DNS on loopback with generated zones, and answers compared with it section by section."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from ports import free_port

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.dns.rdata import read_rdata

KNOTD = shutil.which("knotd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
_START_S = 30.0


class Sections(NamedTuple):
    """An answer, spelling and order inside sections aside."""

    rcode: int
    flags: int
    """QR, AA, TC, RD and the opcode; RA, Z, AD and CD."""
    question: bytes
    answer: frozenset[tuple[bytes, int, int, bytes]]
    authority: frozenset[tuple[bytes, int, int, bytes]]
    additional: frozenset[tuple[bytes, int, int, bytes]]


def sections_of(message: bytes) -> Sections:
    questions, *counts = section_counts(message)
    offset = skip_questions(message, questions)
    question = message[12:offset]
    sections = []
    rcode = message[3] & 15
    for count in counts:
        records = set()
        for _ in range(count):
            record = read_record(message, offset)
            fields = read_rdata(message, record.rrtype, record.rdata_start, record.rdata_end)
            rdata = b"".join(octets.lower() if kind != -5 else octets for kind, octets in fields)
            if record.rrtype == 41:
                rcode |= record.ttl >> 24 << 4
            else:
                records.add((record.owner.lower(), record.rrtype, record.ttl, rdata))
            offset = record.rdata_end
        sections.append(frozenset(records))
    flags = message[2] << 8 | message[3] & 0xF0
    return Sections(rcode, flags, question, *sections)


class Knot:
    """A running knotd; `ask` sends a datagram and waits for the answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(2.0)

    def ask(self, query: bytes) -> bytes:
        for _ in range(3):
            self._socket.send(query)
            try:
                while True:
                    reply = self._socket.recv(65_535)
                    if reply[:2] == query[:2]:
                        return reply
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.05)  # it has not bound its port yet
        raise TimeoutError("Knot does not answer")

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def knot_serving(folder: Path, zones: Iterable[tuple[str, str]]) -> Iterator[Knot]:
    """Knot with zones of (apex, whole master file)."""
    assert KNOTD is not None
    port = free_port()
    lines = [
        "server:",
        f'    rundir: "{folder}/run"',
        f"    listen: 127.0.0.1@{port}",
        "    udp-workers: 1",
        "    tcp-workers: 1",
        "    background-workers: 1",
        "log:",
        f'  - target: "{folder}/knot.log"',
        "    any: warning",
        "database:",
        f'    storage: "{folder}/db"',
        "template:",
        "  - id: default",
        f'    storage: "{folder}"',
        "    semantic-checks: off",
        "    zonefile-sync: -1",
        "    journal-content: none",
        "zone:",
    ]
    (folder / "run").mkdir(parents=True)
    last = ""
    for apex, text in zones:
        (folder / f"{apex}zone").write_text(f"$ORIGIN {apex}\n$TTL 300\n{text}")
        lines += [f"  - domain: {apex}", f"    file: {apex}zone"]
        last = apex
    (folder / "knot.conf").write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        [KNOTD, "-c", str(folder / "knot.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    knot = Knot(port)
    try:
        _wait_until_loaded(knot, last, process)
        yield knot
    finally:
        knot.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_loaded(knot: Knot, apex: str, process: subprocess.Popen[bytes]) -> None:
    """Zones load in the background: until the last is there, questions about it are refused."""
    from aspen.dns.name import name_from_text

    query = b"\x00\x01\x00\x00\x00\x01" + bytes(6) + name_from_text(apex) + b"\x00\x06\x00\x01"
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(TimeoutError):
            if knot.ask(query)[3] & 15 == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"Knot does not serve {apex}")
