"""The questions that ISC's EDNS compliance tester asks, each by its name there, of a server on UDP and TCP.

What is expected is what the tester calls "ok" (RFC 1035, RFC 6891, RFC 6840 §5.7, RFC 7873 §5.2.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
from dns_zones import zone_from_text

from aspen.dns.lookup import DnsSettings, View
from aspen.dns.sockets import bind_udp_and_tcp
from aspen.dns.stream import TcpServer
from aspen.dns.udp import InProcessUdp
from aspen.dns.udp_answers import UdpAnswers
from aspen.dns.zone import MemoryZones

AA, TC, RD, RA, Z, AD, CD = 0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010
NSID, SUBNET, EXPIRE, COOKIE, PADDING, KEEPALIVE, UNKNOWN = 3, 8, 9, 10, 12, 11, 100
OPTIONS: dict[int, bytes] = {
    NSID: b"",
    SUBNET: bytes(4),
    EXPIRE: b"",
    COOKIE: b"12345678",
    PADDING: bytes(20),
    KEEPALIVE: b"",
    UNKNOWN: b"",
}
NOERROR, NOTIMP, BADVERS = dns.rcode.NOERROR, dns.rcode.NOTIMP, dns.rcode.BADVERS
SOA, TXT, TYPE666 = 6, 16, 666


class Case(NamedTuple):
    name: str
    flags: int = 0
    """Of the header."""
    version: int | None = None
    """Of EDNS; None: none."""
    edns_flags: int = 0
    options: tuple[int, ...] = ()
    size: int = 4096
    opcode: int = 0
    qtype: int = SOA
    rcode: int = NOERROR
    tcp: bool = False


DO, UNKNOWN_FLAG = 0x8000, 0x0080
EVERY_OPTION = (NSID, EXPIRE, SUBNET, COOKIE)
CASES = [
    Case("dns"),
    Case("aa", AA),
    Case("ad", AD),
    Case("cd", CD),
    Case("ra", RA),
    Case("rd", RD),
    Case("tc", TC),
    Case("zflag", Z),
    Case("opcode", opcode=15, rcode=NOTIMP),
    Case("opcodeflg", AA | TC | RD | RA | AD | CD, opcode=15, rcode=NOTIMP),
    Case("type666", qtype=TYPE666),
    Case("tcp", tcp=True),
    Case("edns", version=0),
    Case("edns1", version=1, rcode=BADVERS),
    Case("edns@512", version=0, size=512, qtype=TXT),
    Case("ednsopt", version=0, options=(UNKNOWN,)),
    Case("edns1opt", version=1, options=(UNKNOWN,), rcode=BADVERS),
    Case("do", version=0, edns_flags=DO),
    Case("edns1do", version=1, edns_flags=DO, rcode=BADVERS),
    Case("docd", CD, version=0, edns_flags=DO),
    Case("ednsflags", version=0, edns_flags=UNKNOWN_FLAG),
    Case("edns1flags", version=1, edns_flags=UNKNOWN_FLAG, rcode=BADVERS),
    Case("optlist", version=0, options=EVERY_OPTION),
    Case("ednsnsid", version=0, options=(NSID,)),
    Case("ednscookie", version=0, options=(COOKIE,)),
    Case("ednsexpire", version=0, options=(EXPIRE,)),
    Case("ednssubnet", version=0, options=(SUBNET,)),
    Case("ednspadding", version=0, options=(PADDING,)),
    Case("ednstcp-keepalive", version=0, options=(KEEPALIVE,), tcp=True),
    Case("edns1nsid", version=1, options=(NSID,), rcode=BADVERS),
    Case("edns1cookie", version=1, options=(COOKIE,), rcode=BADVERS),
    Case("ednsopcode", version=0, opcode=15, rcode=NOTIMP),
    Case("edns1opcode", version=1, opcode=15, rcode=BADVERS),
    Case("ednstcp", version=0, tcp=True),
    Case("edns512tcp", version=0, size=512, qtype=TXT, tcp=True),
    Case("bind11", AD, version=0, edns_flags=DO, options=(COOKIE,)),
    Case("dig11", AD, version=0, options=(COOKIE,)),
]


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, int]]:
    texts = "\n".join(f'@ TXT "{i}{"x" * 200}"' for i in range(4))
    settings = DnsSettings(nsid="ns-7.aspen", identity="ns-7.aspen")
    view = View.build(_Nothing(), settings, MemoryZones([zone_from_text("example.", texts)]))
    udp_sockets, tcp_socket = bind_udp_and_tcp("127.0.0.1", 0, 1)
    udp, tcp = InProcessUdp(udp_sockets, view), TcpServer(view)
    address = await tcp.start_on(tcp_socket)
    await udp.start()
    yield address
    await udp.close()
    await tcp.close()


class _Nothing:
    def packet_answers(self, public_key: bytes) -> bytes | None:
        return None


def query_of(case: Case) -> bytes:
    header_only = case.opcode != 0
    options = b"".join(
        code.to_bytes(2, "big") + len(OPTIONS[code]).to_bytes(2, "big") + OPTIONS[code]
        for code in case.options
    )
    opt = b""
    if case.version is not None:
        opt = b"\x00\x00\x29" + case.size.to_bytes(2, "big") + bytes((0, case.version))
        opt += case.edns_flags.to_bytes(2, "big") + len(options).to_bytes(2, "big") + options
    flags = (case.opcode << 11 | case.flags).to_bytes(2, "big")
    counts = bytes((0, 0 if header_only else 1, 0, 0, 0, 0, 0, 1 if opt else 0))
    question = b"" if header_only else b"\x07example\x00" + case.qtype.to_bytes(2, "big") + b"\x00\x01"
    return b"\x5a\x5a" + flags + counts + question + opt


async def ask(server: tuple[str, int], query: bytes, *, tcp: bool) -> bytes:
    if not tcp:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes] = loop.create_future()

        class Client(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, address: Any) -> None:
                answered.set_result(data)

        transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=server)
        try:
            transport.sendto(query)
            return await asyncio.wait_for(answered, 30)
        finally:
            transport.close()
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), 30), "big")
        return await asyncio.wait_for(reader.readexactly(size), 30)
    finally:
        writer.close()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_compliance(server: tuple[str, int], case: Case) -> None:
    wire = await ask(server, query_of(case), tcp=case.tcp)
    reply = dns.message.from_wire(wire)
    assert reply.id == 0x5A5A
    assert reply.rcode() == case.rcode
    assert reply.opcode() == case.opcode
    # Of the header's flags only RD is anybody's to copy; Z, AD, CD and RA stay clear.
    answered = case.rcode == NOERROR
    truncated = case.name == "edns@512"
    expected = dns.flags.QR | (AA if answered else 0) | (case.flags & RD) | (TC if truncated else 0)
    assert int(reply.flags) & 0x87F0 == expected  # without the opcode
    # EDNS for EDNS, version 0, of the flags DO alone, no option but those we know.
    assert (reply.opt is not None) == (case.version is not None)
    if case.version is not None:
        assert reply.edns == 0
        assert reply.ednsflags & 0xFFFF == case.edns_flags & DO
        assert {int(option.otype) for option in reply.options} <= {NSID, COOKIE}
        assert (NSID in {int(option.otype) for option in reply.options}) == (
            NSID in case.options and answered
        )
    if answered and case.qtype == SOA:
        assert reply.answer[0].rdtype == SOA
    if case.qtype == TYPE666:
        assert (len(reply.answer), reply.authority[0].rdtype) == (0, SOA)
    if case.name == "edns@512":
        assert len(wire) <= 512
    if case.name == "edns512tcp":
        assert len(reply.answer[0]) == 4


async def test_rfc5001_nsid_and_rfc4892_chaos(server: tuple[str, int]) -> None:
    query = dns.message.make_query("example.", "SOA", options=[dns.edns.GenericOption(NSID, b"")])
    reply = await dns.asyncquery.udp(query, server[0], timeout=5, port=server[1])
    assert [option.to_wire() for option in reply.options] == [b"ns-7.aspen"]
    for name, text in (
        ("version.bind", '"Aspen"'),
        ("VERSION.server", '"Aspen"'),
        ("id.server", '"ns-7.aspen"'),
        ("hostname.bind", '"ns-7.aspen"'),
    ):
        query = dns.message.make_query(name, "TXT", "CH")
        reply = await dns.asyncquery.udp(query, server[0], timeout=5, port=server[1])
        assert [rrset.to_text() for rrset in reply.answer] == [f"{name}. 0 CH TXT {text}"]
        query = dns.message.make_query(name, "A", "CH")
        reply = await dns.asyncquery.udp(query, server[0], timeout=5, port=server[1])
        assert (reply.rcode(), len(reply.answer)) == (NOERROR, 0)
    query = dns.message.make_query("authors.bind", "TXT", "CH")
    reply = await dns.asyncquery.udp(query, server[0], timeout=5, port=server[1])
    assert reply.rcode() == dns.rcode.REFUSED


def test_a_server_may_keep_its_name_to_itself(serve: Any) -> None:
    served = serve(version="", identity="")
    for name in ("version.bind", "id.server"):
        query = dns.message.make_query(name, "TXT", "CH").to_wire()
        assert dns.message.from_wire(served.ask_wire(query)).rcode() == dns.rcode.REFUSED


def test_rfc1035_6_2_an_answer_in_class_any_is_not_authoritative(serve: Any) -> None:
    served = serve(zones=[zone_from_text("example.", "a A 192.0.2.1")])
    reply = dns.message.from_wire(served.ask_wire(dns.message.make_query("a.example.", "A", "ANY").to_wire()))
    assert len(reply.answer) == 1
    assert not reply.flags & dns.flags.AA


def test_rfc8914_4_19_a_listener_closed_to_a_client_refuses_everything(serve: Any, z32: str) -> None:
    served = serve('@ 30 TXT "x"', query_acl=("192.0.2.0/24",))
    for name in (f"{z32}.aspen.local", "nope.aspen.local", "example."):
        reply = served.ask(name, use_edns=0)
        assert reply.rcode() == dns.rcode.REFUSED
        assert [option.code for option in reply.options] == [18]
    served.client = bytes((192, 0, 2, 1))
    assert len(served.ask(f"{z32}.aspen.local").answer) == 1
    # What one client was told is not kept ready for another.
    answers = UdpAnswers(served.view)
    query = dns.message.make_query(f"{z32}.aspen.local", "TXT").to_wire()
    rcodes = []
    for host in ("192.0.2.1", "198.51.100.1", "192.0.2.2"):
        reply = answers.reply_to(query, host)
        assert reply is not None
        rcodes.append(reply[1] & 15)
    assert rcodes == [NOERROR, dns.rcode.REFUSED, NOERROR]
