"""Unbound as the resolver before us: as a stub and as a forwarder, with 0x20 (`use-caps-for-id`), and
validating under a signed parent, where a zone of ours is insecure and must not be bogus (RFC 4035 §5.2)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest
from dns_zones import zone_from_text
from knot_peer import KNOTD
from ports import free_port

from aspen.dns.lookup import DnsSettings, View
from aspen.dns.sockets import bind_udp_and_tcp
from aspen.dns.stream import TcpServer
from aspen.dns.udp import InProcessUdp
from aspen.dns.zone import MemoryZones
from aspen.z32 import encode_key

UNBOUND = shutil.which("unbound", path="/usr/sbin:/usr/bin:/usr/local/sbin")
KEY = bytes(range(32))
Z32 = encode_key(KEY)
ZONE = f"""
a A 192.0.2.1
*.w TXT "wild"
www CNAME x.w
old DNAME new
h.new A 192.0.2.2
to-key CNAME _iroh.{Z32}.keys
big TXT {" ".join(f'"{mark}{"x" * 240}"' for mark in "abcdefgh")}
sub NS ns1
"""
SUB = "b A 192.0.2.3"
PACKET = '_iroh 30 TXT "relay=https://relay.example./"\n_http._tcp 30 SRV 0 0 80 _iroh.KEY.'
ORIGIN = "keys.ours.test."
# What to ask, the response code, and how many RRsets the whole answer has.
QUESTIONS = [
    ("a.ours.test.", "A", dns.rcode.NOERROR, 1),
    ("a.ours.test.", "AAAA", dns.rcode.NOERROR, 0),
    ("nope.ours.test.", "A", dns.rcode.NXDOMAIN, 0),
    ("q.w.ours.test.", "TXT", dns.rcode.NOERROR, 1),
    ("w.ours.test.", "TXT", dns.rcode.NOERROR, 0),
    ("www.ours.test.", "TXT", dns.rcode.NOERROR, 2),
    ("h.old.ours.test.", "A", dns.rcode.NOERROR, 3),
    ("big.ours.test.", "TXT", dns.rcode.NOERROR, 1),
    ("b.sub.ours.test.", "A", dns.rcode.NOERROR, 1),
    ("to-key.ours.test.", "TXT", dns.rcode.NOERROR, 2),
    (f"_iroh.{Z32}.{ORIGIN}", "TXT", dns.rcode.NOERROR, 1),
    (f"_http._tcp.{Z32}.{ORIGIN}", "SRV", dns.rcode.NOERROR, 1),
    (f"nope.{Z32}.{ORIGIN}", "TXT", dns.rcode.NXDOMAIN, 0),
    (ORIGIN, "SOA", dns.rcode.NOERROR, 1),
]

pytestmark = pytest.mark.skipif(UNBOUND is None, reason="unbound is not installed")


@pytest.fixture
async def ours(serve: Any) -> AsyncIterator[int]:
    """Our port."""
    packets = serve(PACKET).records
    zones = MemoryZones([zone_from_text("ours.test.", ZONE), zone_from_text("sub.ours.test.", SUB)])
    view = View.build(packets, DnsSettings(origins=(ORIGIN,)), zones)
    udp_sockets, tcp_socket = bind_udp_and_tcp("127.0.0.1", 0, 1)
    udp, tcp = InProcessUdp(udp_sockets, view), TcpServer(view)
    _, port = await tcp.start_on(tcp_socket)
    await udp.start()
    yield port
    await udp.close()
    await tcp.close()


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextlib.contextmanager
def unbound(folder: Path, *lines: str) -> Iterator[int]:
    """Unbound with those lines in its configuration; its port, once it serves."""
    assert UNBOUND is not None
    for _ in range(5):
        port = configure(folder, lines)
        with process(UNBOUND, "-d", "-c", str(folder / "unbound.conf")) as running:
            if serves(running, folder / "unbound.log"):
                yield port
                return
    raise AssertionError("unbound didn't start: other tests took each port it was given")


def serves(running: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until it does; False if it ends before, as without its port."""
    deadline = time.monotonic() + 30
    while running.poll() is None and time.monotonic() < deadline:
        if log.exists() and "start of service" in log.read_text():
            return True
        time.sleep(0.02)
    return False


def configure(folder: Path, lines: Sequence[str]) -> int:
    port = free_port()
    (folder / "unbound.conf").write_text(
        "\n".join(
            [
                "server:",
                f"  interface: 127.0.0.1@{port}",
                '  chroot: ""',
                '  username: ""',
                '  pidfile: ""',
                f'  directory: "{folder}"',
                f'  logfile: "{folder}/unbound.log"',
                "  use-syslog: no",
                "  do-daemonize: no",
                "  do-not-query-localhost: no",
                "  do-ip6: no",
                "  num-threads: 1",
                "  use-caps-for-id: yes",
                "  minimal-responses: no",
                '  local-zone: "test." nodefault',
                "  hide-identity: yes",
                *lines,
                "",
            ]
        )
    )
    return port


async def ask(port: int, name: str, rrtype: str, **options: Any) -> dns.message.Message:
    """Ask until there is somebody to answer."""
    query = dns.message.make_query(name, rrtype, **options)
    deadline = asyncio.get_running_loop().time() + 15
    while True:
        try:
            reply, _ = await dns.asyncquery.udp_with_fallback(query, "127.0.0.1", timeout=1, port=port)
            return reply
        except (dns.exception.Timeout, OSError):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)


async def ask_everything(port: int, *, authenticated: bool = False) -> None:
    for name, rrtype, rcode, rrsets in QUESTIONS:
        reply = await ask(port, name, rrtype, want_dnssec=authenticated)
        assert (reply.rcode(), len(reply.answer)) == (rcode, rrsets), (name, rrtype, reply.to_text())
        assert reply.flags & dns.flags.RA
        assert not reply.flags & dns.flags.AD


@pytest.mark.parametrize("kind", ["stub", "forward"])
async def test_a_resolver_gets_every_answer(ours: int, tmp_path: Path, kind: str) -> None:
    lines = [
        '  module-config: "iterator"',
        f"{kind}-zone:",
        '  name: "test."',
        f"  {kind}-addr: 127.0.0.1@{ours}",
    ]
    with unbound(tmp_path, *lines) as port:
        await ask_everything(port)


@pytest.mark.skipif(KNOTD is None, reason="knotd is not installed")
async def test_rfc4035_5_2_a_zone_of_ours_below_a_signed_parent_is_insecure(
    ours: int, tmp_path: Path
) -> None:
    assert KNOTD is not None
    knot_port = free_port()
    (tmp_path / "test.zone").write_text(
        "@ 60 SOA ns h 1 60 60 600 60\n@ 60 NS ns\nns 60 A 127.0.0.1\nsigned 60 TXT secure\n"
        "ours 60 NS ns.ours\nns.ours 60 A 127.0.0.1\n"
    )
    (tmp_path / "knot.conf").write_text(
        f"""
server:
    rundir: "{tmp_path}/run"
    listen: 127.0.0.1@{knot_port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "{tmp_path}/db"
zone:
  - domain: test.
    storage: "{tmp_path}"
    file: test.zone
    zonefile-sync: -1
    zonefile-load: difference-no-serial
    journal-content: all
    dnssec-signing: on
"""
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "db").mkdir()
    with process(KNOTD, "-c", str(tmp_path / "knot.conf")):
        for _ in range(200):
            keys = (await ask(knot_port, "test.", "DNSKEY", use_edns=0, payload=1232)).answer
            if keys:
                break
            await asyncio.sleep(0.05)  # it is still signing
        (tmp_path / "anchor.key").write_text(keys[0].to_text() + "\n")
        lines = [
            '  module-config: "validator iterator"',
            f'  trust-anchor-file: "{tmp_path}/anchor.key"',
            *("stub-zone:", '  name: "test."', f"  stub-addr: 127.0.0.1@{knot_port}"),
            *("stub-zone:", '  name: "ours.test."', f"  stub-addr: 127.0.0.1@{ours}"),
        ]
        with unbound(tmp_path, *lines) as port:
            secure = await ask(port, "signed.test.", "TXT", want_dnssec=True)
            assert secure.flags & dns.flags.AD, secure.to_text()
            await ask_everything(port, authenticated=True)
