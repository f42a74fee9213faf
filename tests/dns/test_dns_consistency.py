"""How old an answer may be: barriers by zone, over UDP and TCP, and what a node says that is out of touch
(RFC 8914 §4.4, §4.20, §4.23)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import dns.rcode
import pytest
from dns_zones import zone_from_text

from aspen.config import ClusterBootstrapConfig, DnsServerConfig
from aspen.dns.fast import FastResponder
from aspen.dns.lookup import DnsSettings, View
from aspen.dns.policy import Staleness
from aspen.dns.primary import Primary
from aspen.dns.respond import Transport, respond
from aspen.dns.sockets import bind_udp_and_tcp
from aspen.dns.stream import Answers, TcpServer
from aspen.dns.udp import InProcessUdp
from aspen.dns.zone import MemoryZones, ZoneSettings
from aspen.errors import NoLeader
from aspen.identity import Identity
from aspen.node import bootstrap_node
from aspen.state.ports import Consistency
from aspen.z32 import encode_key


class Barriers:
    """A proposer of which only barriers are wanted."""

    def __init__(self) -> None:
        self.passed: list[Consistency] = []
        self.blocked = False

    async def barrier(self, consistency: Consistency) -> None:
        if self.blocked:
            raise NoLeader("nobody leads")
        self.passed.append(consistency)


class NoPackets:
    def packet_answers(self, public_key: bytes) -> bytes | None:
        return None


class Server:
    def __init__(self, address: tuple[str, int], barriers: Barriers, doh: Answers) -> None:
        self.address, self.barriers, self._doh = address, barriers, doh

    async def ask(self, name: str, way: str) -> dns.message.Message:
        query = dns.message.make_query(name, "A", use_edns=0)
        host, port = self.address
        if way == "udp":
            return await dns.asyncquery.udp(query, host, timeout=5, port=port)
        if way == "tcp":
            return await dns.asyncquery.tcp(query, host, timeout=5, port=port)
        reply = await self._doh.answer_in_time(query.to_wire(), b"\x7f\0\0\1", ("127.0.0.1", 1))
        assert reply is not None
        return dns.message.from_wire(reply)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    zones = MemoryZones(
        zone_from_text(f"{kind}.", "a A 192.0.2.1\nto CNAME a.leader.", ZoneSettings(consistency=kind))
        for kind in ("stale", "consistent", "leader")
    )
    view = View.build(NoPackets(), DnsSettings(), zones)
    barriers = Barriers()
    primary = Primary(zones, lambda _: None, barriers, lambda: view, lambda: 0.0)  # type: ignore[arg-type]
    udp_sockets, tcp_socket = bind_udp_and_tcp("127.0.0.1", 0, 1)
    udp, tcp = InProcessUdp(udp_sockets, view, primary.datagram), TcpServer(view, defer=primary.stream)
    address = await tcp.start_on(tcp_socket)
    await udp.start()
    yield Server(address, barriers, Answers(view, defer=primary.stream))
    await udp.close()
    await tcp.close()


@pytest.mark.parametrize("way", ["udp", "tcp", "doh"])
async def test_a_zone_is_read_behind_the_barrier_it_asks_for(server: Server, way: str) -> None:
    for name, passed in (
        ("a.stale.", []),
        ("a.consistent.", [Consistency.CONSISTENT]),
        ("nope.consistent.", [Consistency.CONSISTENT]),
        ("a.leader.", [Consistency.LEADER]),
        ("to.stale.", [Consistency.LEADER]),
    ):
        server.barriers.passed.clear()
        reply = await server.ask(name, way)
        assert reply.rcode() == (dns.rcode.NXDOMAIN if name.startswith("nope") else dns.rcode.NOERROR)
        assert server.barriers.passed == passed
        assert not reply.options


@pytest.mark.parametrize("way", ["udp", "tcp", "doh"])
async def test_rfc8914_4_23_no_answer_without_the_barrier(server: Server, way: str) -> None:
    server.barriers.blocked = True
    reply = await server.ask("a.consistent.", way)
    assert (reply.rcode(), len(reply.answer)) == (dns.rcode.SERVFAIL, 0)
    assert [option.code for option in reply.options] == [22]
    assert (await server.ask("a.stale.", way)).rcode() == dns.rcode.NOERROR


def test_rfc8914_a_node_out_of_touch_says_so(serve: Any, z32: str) -> None:
    served = serve('@ 30 TXT "x"', [zone_from_text("example.", "a A 192.0.2.1")])
    asked = [
        (f"{z32}.aspen.local.", "TXT", 3),
        (f"x.{z32}.aspen.local.", "TXT", 19),
        ("a.example.", "A", 3),
        ("a.example.", "AAAA", 3),
        ("b.example.", "A", 19),
    ]
    for staleness in (Staleness.FRESH, Staleness.MARKED, Staleness.SILENT, Staleness.FRESH):
        served.view.touch.staleness = staleness
        fast = FastResponder(served.view)
        for name, rrtype, code in asked:
            for options in ({"use_edns": 0}, {}):
                query = dns.message.make_query(name, rrtype, **options)
                wire = respond(query.to_wire(), served.view, Transport.UDP)
                assert wire is not None
                assert fast.answer(query.to_wire()) == wire[2:]
                reply = dns.message.from_wire(wire)
                said = [option.code for option in reply.options]
                if staleness is Staleness.SILENT:
                    assert (reply.rcode(), said) == (dns.rcode.SERVFAIL, [22] if options else [])
                else:
                    assert reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
                    assert said == ([code] if staleness is Staleness.MARKED and options else [])
        # What is not ours, and what this server is called, doesn't go stale.
        assert served.ask("elsewhere.", "A").rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize(("workers", "answers"), [(0, "mark"), (1, "refuse")])
async def test_a_node_without_its_cluster_says_so(tmp_path: Path, workers: int, answers: Any) -> None:
    other = encode_key(Identity.generate().endpoint_id)
    config = ClusterBootstrapConfig(
        node_id=1,
        data_dir=tmp_path / "node",
        cookie="a cookie of the tests, long enough",
        dns_port=0,
        http_addr="127.0.0.1:0",
        quic_port=0,
        profile="lan",
        init=True,
        peers=[f"2@{other}@127.0.0.1:9"],
        dns_server=DnsServerConfig(workers=workers, max_stale_ms=1, stale_answers=answers),
    )
    async with await bootstrap_node(config) as node:
        assert node.dns_address is not None
        host, port = node.dns_address
        query = dns.message.make_query("aspen.local.", "SOA", use_edns=0)
        deadline = asyncio.get_running_loop().time() + 10
        while True:
            try:
                reply = await dns.asyncquery.udp(query, host, timeout=0.3, port=port)
            except (dns.exception.Timeout, OSError):  # the worker is starting
                reply = None
            if reply is not None and any(option.otype == 15 for option in reply.options):
                break
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        code, rcode = (3, dns.rcode.NOERROR) if answers == "mark" else (22, dns.rcode.SERVFAIL)
        assert (reply.rcode(), [option.code for option in reply.options if option.otype == 15]) == (
            rcode,
            [code],
        )
        chaos = dns.message.make_query("id.server", "TXT", "CH")
        reply = await dns.asyncquery.udp(chaos, host, timeout=2, port=port)
        assert reply.answer[0][0].to_text() == '"node-1"'
