"""AXFR (RFC 5936) and IXFR (RFC 1995) over real connections, taken in by dnspython."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import dns.asyncquery
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.xfr
import dns.zone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from primaries import HEAD, KEY, OPEN, RecordingProposer, RememberingZone, Step, make_primary, records_of

from aspen.dns.lookup import DnsSettings, View
from aspen.dns.primary import Primary
from aspen.dns.respond import Transport
from aspen.dns.stream import TcpServer
from aspen.dns.transfer import Record, is_newer, ixfr_serial, plan_transfer, transfer_messages
from aspen.dns.wire import parse_query
from aspen.dns.zone import MemoryZone, ZoneSettings
from aspen.errors import DnsWireError, NoLeader
from aspen.limits import DNS_TRANSFER_MESSAGE_BYTES

SECONDS = 30.0
Serve = Callable[..., Awaitable[tuple[TcpServer, tuple[str, int]]]]
KEYRING = dns.tsig.Key("transfer.example.", KEY.secret, "hmac-sha256.")
ODD_TYPES = r"""
alias 60 CNAME www.zone.example.
www 60 A 192.0.2.80
www 60 AAAA 2001:db8::80
@ 60 MX 10 Mail.Zone.Example.
@ 60 CAA 0 issue "ca.example"
_sip._tcp 60 SRV 0 5 5060 WWW.zone.example.
_443._tcp 60 TLSA 3 1 0 0123456789abcdef
host 60 SSHFP 4 3 abcdef
old 60 DNAME new.zone.example.
naptr 60 NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.com!" .
svc 60 HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1
unknown 60 TYPE65280 \# 4 0a000001
sub 60 NS ns.sub
sub 60 DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118
ns.sub 60 A 192.0.2.53
* 60 TXT "wild" "card"
ptr 60 PTR WWW.Zone.Example.
"""


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers = []

    async def start(*zones: MemoryZone, primary: Primary | None = None, **options: Any) -> Any:
        primary = primary or make_primary(*zones)
        server = TcpServer(View.build(None, DnsSettings()), defer=primary.stream, **options)  # type: ignore[arg-type]
        servers.append(server)
        return server, await server.start("127.0.0.1", 0)

    yield start
    for server in servers:
        await server.close()


async def take(
    address: tuple[str, int],
    held: dns.zone.Zone | None = None,
    *,
    origin: str = "zone.example.",
    **signing: Any,
) -> dns.zone.Zone:
    """Transfer a zone into one that dnspython holds: AXFR into none, else IXFR."""
    zone = held if held is not None else dns.zone.Zone(origin, relativize=False)
    query, _ = dns.xfr.make_query(zone, **signing)
    await asyncio.wait_for(
        dns.asyncquery.inbound_xfr(address[0], zone, query, port=address[1], timeout=SECONDS), SECONDS
    )
    return zone


def contents(zone: dns.zone.Zone) -> set[tuple[bytes, int, int, bytes]]:
    return {
        (name.to_wire(), rdataset.rdtype, rdataset.ttl, rdata.to_wire())
        for name, rdataset in zone.iterate_rdatasets()
        for rdata in rdataset
    }


def expected(zone: MemoryZone) -> set[tuple[bytes, int, int, bytes]]:
    return {
        (owner, rrtype, rrset.ttl, rdata)
        for owner, node in zone.walk()
        for rrtype, rrset in node.items()
        for rdata in rrset.rdatas
    }


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what the other end of a connection does in its own time."""
    for _ in range(int(SECONDS / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never happened")


async def raw(address: tuple[str, int], query: bytes, count: int | None = None) -> list[bytes]:
    """Messages sent back for a query: `count`, or all until the server closes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(len(query).to_bytes(2, "big") + query)
    if count is None:
        writer.write_eof()
    messages = []
    async with asyncio.timeout(SECONDS):
        while count is None or len(messages) < count:
            try:
                size = int.from_bytes(await reader.readexactly(2), "big")
            except asyncio.IncompleteReadError:
                break
            messages.append(await reader.readexactly(size))
    writer.close()
    return messages


# --- AXFR ---------------------------------------------------------------------------------------


async def test_a_zone_of_odd_types_arrives_as_it_is(serve: Serve) -> None:
    zone = RememberingZone(ODD_TYPES)
    _, address = await serve(zone)
    assert contents(await take(address)) == expected(zone)


async def test_spelling_of_names_in_rdata_survives_compression(serve: Serve) -> None:
    _, address = await serve(RememberingZone(ODD_TYPES))
    taken = await take(address)
    mx = taken.get_rdataset("zone.example.", "MX")
    assert mx is not None
    assert mx[0].exchange.labels[0] == b"Mail"


async def test_a_large_zone_comes_in_many_messages_each_signed_section_2_2(serve: Serve) -> None:
    text = "\n".join(f"host-{i} 300 A 192.0.{i // 256 % 256}.{i % 256}" for i in range(3_000))
    zone = RememberingZone(text)
    _, address = await serve(zone)
    taken = await take(address, keyring=KEYRING)
    assert contents(taken) == expected(zone)
    query = dns.message.make_query("zone.example.", "AXFR")
    messages = await raw(address, query.to_wire())
    assert len(messages) > 4
    assert all(len(message) <= DNS_TRANSFER_MESSAGE_BYTES for message in messages)
    parsed = [dns.message.from_wire(message, xfr=True) for message in messages]
    assert parsed[0].question
    assert not any(message.question for message in parsed[1:])
    assert parsed[0].answer[0].rdtype == dns.rdatatype.SOA
    assert parsed[-1].answer[-1].rdtype == dns.rdatatype.SOA
    assert all(message.id == query.id and message.flags & 0x8400 == 0x8400 for message in parsed)


async def test_records_larger_than_a_usual_message_come_alone(serve: Serve) -> None:
    chunks = " ".join(f'"{"x" * 250}"' for _ in range(200))
    most = " ".join(f'"{"y" * 250}"' for _ in range(254))
    zone = RememberingZone(f"big 60 TXT {chunks}\nafter 60 A 192.0.2.1\nbigger 60 TXT {most}")
    _, address = await serve(zone)
    assert contents(await take(address, keyring=KEYRING)) == expected(zone)


async def test_opt_answers_opt_in_the_first_message_section_2_2_5(serve: Serve) -> None:
    _, address = await serve(RememberingZone(""))
    query = dns.message.make_query("zone.example.", "AXFR", use_edns=0)
    (message,) = await raw(address, query.to_wire())
    assert dns.message.from_wire(message, xfr=True).edns == 0
    (message,) = await raw(address, dns.message.make_query("zone.example.", "AXFR").to_wire())
    assert dns.message.from_wire(message, xfr=True).edns == -1


@pytest.mark.parametrize(
    ("name", "zone_settings", "rcode", "ede"),
    [
        ("zone.example.", ZoneSettings(), dns.rcode.REFUSED, 18),
        ("zone.example.", ZoneSettings(transfer_acl=("192.0.2.0/24",)), dns.rcode.REFUSED, 18),
        ("zone.example.", ZoneSettings(transfer_keys=("transfer.example",)), dns.rcode.REFUSED, 18),
        ("zone.example.", ZoneSettings(enabled=False, transfer_acl=("0.0.0.0/0",)), dns.rcode.NOTAUTH, 20),
        ("www.zone.example.", OPEN, dns.rcode.NOTAUTH, 20),
        ("example.", OPEN, dns.rcode.NOTAUTH, 20),
        ("notzone.example.", OPEN, dns.rcode.NOTAUTH, 20),
    ],
)
async def test_who_may_not_transfer_hears_why_section_2_2_1(
    serve: Serve, name: str, zone_settings: ZoneSettings, rcode: int, ede: int
) -> None:
    _, address = await serve(RememberingZone("", settings=zone_settings))
    for rrtype in ("AXFR", "IXFR"):
        query = dns.message.make_query(name, rrtype, use_edns=0)
        if rrtype == "IXFR":
            query.authority.append(dns.rrset.from_text(name, 0, "IN", "SOA", ". . 1 0 0 0 0"))
        (message,) = await raw(address, query.to_wire())
        reply = dns.message.from_wire(message)
        assert reply.rcode() == rcode
        assert [option.code for option in reply.options if option.otype == 15] == [ede]
        assert not reply.answer


async def test_a_key_that_the_zone_names_opens_it_and_no_other(serve: Serve) -> None:
    named = ZoneSettings(transfer_keys=("Transfer.Example",))
    other = KEY._replace(name=b"\x05other\x00")
    zone = RememberingZone("", settings=named)
    _, address = await serve(primary=make_primary(zone, keys=(KEY, other)))
    assert contents(await take(address, keyring=KEYRING)) == expected(zone)
    with pytest.raises(dns.xfr.TransferError) as caught:
        await take(address, keyring=dns.tsig.Key("other.", other.secret, "hmac-sha256."))
    assert caught.value.rcode == dns.rcode.REFUSED
    wrong = dns.tsig.Key("transfer.example.", b"not the secret", "hmac-sha256.")
    with pytest.raises(dns.tsig.PeerBadSignature):
        await take(address, keyring=wrong)
    with pytest.raises(dns.tsig.PeerBadKey):
        await take(address, keyring=dns.tsig.Key("unknown.", b"x", "hmac-sha256."))


async def test_ordinary_queries_are_answered_beside_a_transfer_rfc7766_6_2_1_1(serve: Serve) -> None:
    text = "\n".join(f"host-{i} 300 A 192.0.2.1" for i in range(3_000))
    _, address = await serve(RememberingZone(text))
    axfr = dns.message.make_query("zone.example.", "AXFR", id=1).to_wire()
    plain = dns.message.make_query("other.example.", "A", id=2).to_wire()
    both = axfr + len(plain).to_bytes(2, "big") + plain
    reader, writer = await asyncio.open_connection(*address)
    writer.write(len(axfr).to_bytes(2, "big") + both)
    writer.write_eof()
    received = await asyncio.wait_for(reader.read(), SECONDS)
    ids = []
    while received:
        size = int.from_bytes(received[:2], "big")
        ids.append(int.from_bytes(received[2:4], "big"))
        received = received[2 + size :]
    assert ids.count(2) == 1
    assert ids.count(1) > 2
    assert ids[-1] == 1, "the query did not wait for the transfer's end"
    writer.close()


async def test_a_secondary_that_takes_nothing_is_cut_off_and_holds_no_memory(serve: Serve) -> None:
    label = b"\x04zone\x07example\x00"
    many = [Record(b"\x06%06d" % i + label, 16, 300, b"\xc8" + bytes(200)) for i in range(40_000)]
    zone = RememberingZone("", more=many)
    taken = 0
    walk = zone.walk

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(zone, name)

        def walk(self) -> Any:
            nonlocal taken
            for item in walk():
                taken += 1
                yield item

    primary = make_primary(zone)
    primary._zones = type("Held", (), {"get": lambda self, apex: Counting()})()  # type: ignore[assignment]
    server, address = await serve(primary=primary, write_ms=300)
    reader, writer = await asyncio.open_connection(*address, limit=1_024)
    query = dns.message.make_query("zone.example.", "AXFR").to_wire()
    writer.write(len(query).to_bytes(2, "big") + query)
    await eventually(lambda: server.connection_count)
    await eventually(lambda: not server.connection_count)
    assert 0 < taken < 39_000, "it went only as far as the buffers"
    assert not primary.transfers
    assert primary._slots._value > 0
    writer.close()
    del reader


async def test_too_many_transfers_wait_and_then_hear_servfail(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.dns.primary.DNS_TRANSFER_WAIT_MS", 50)
    primary = make_primary(RememberingZone(""), transfers_max=1)
    _, address = await serve(primary=primary)
    await primary._slots.acquire()
    query = dns.message.make_query("zone.example.", "AXFR").to_wire()
    (message,) = await raw(address, query)
    assert dns.message.from_wire(message).rcode() == dns.rcode.SERVFAIL
    primary._slots.release()
    (message,) = await raw(address, query)
    assert dns.message.from_wire(message, xfr=True).rcode() == dns.rcode.NOERROR


async def test_a_zone_that_is_to_be_fresh_waits_for_the_barrier_before_it_goes_out(serve: Serve) -> None:
    fresh = ZoneSettings(transfer_acl=("127.0.0.0/8",), consistency="consistent")
    proposer = RecordingProposer()
    _, address = await serve(primary=make_primary(RememberingZone("", settings=fresh), proposer=proposer))
    await take(address)
    assert proposer.barriers == ["consistent"]
    proposer.barrier_error = NoLeader("none is known")
    with pytest.raises(dns.xfr.TransferError) as caught:
        await take(address)
    assert caught.value.rcode == dns.rcode.SERVFAIL


async def test_axfr_by_datagram_is_formerr_section_4_2() -> None:
    reply = await make_primary(RememberingZone("")).datagram(
        dns.message.make_query("zone.example.", "AXFR").to_wire(), ("127.0.0.1", 1)
    )
    assert reply is not None
    assert dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR


# --- IXFR ---------------------------------------------------------------------------------------


def changed_zone() -> tuple[RememberingZone, RememberingZone]:
    """A zone at serial 10, and what became of it at serial 12, in two steps."""
    before = RememberingZone("a 60 A 192.0.2.1\nb 60 A 192.0.2.2\nb 60 A 192.0.2.3\n", serial=10)
    soa = {n: records_of(HEAD.format(serial=n), "zone.example.")[0] for n in (10, 11, 12)}
    for record in soa.values():
        assert record.rrtype == dns.rdatatype.SOA

    def one(line: str) -> Record:
        return records_of(line, "zone.example.")[0]

    steps = [
        Step([one("a 60 A 192.0.2.1"), soa[10]], [one("c 60 MX 5 a.zone.example."), soa[11]]),
        Step([soa[11], one("b 60 A 192.0.2.2")], [soa[12], one("a 90 AAAA ::1")]),
    ]
    after = RememberingZone(
        "b 60 A 192.0.2.3\nc 60 MX 5 a.zone.example.\na 90 AAAA ::1",
        serial=12,
        history={10: steps, 11: steps[1:], 12: []},
    )
    return before, after


def ixfr(serial: int, **options: Any) -> dns.message.Message:
    query = dns.message.make_query("zone.example.", "IXFR", **options)
    soa = f"ns1.zone.example. hostmaster.zone.example. {serial} 1 1 1 1"
    query.authority.append(dns.rrset.from_text("zone.example.", 0, "IN", "SOA", soa))
    return query


async def test_ixfr_makes_the_old_zone_the_new_one_rfc1995_4(serve: Serve) -> None:
    before, after = changed_zone()
    _, old_address = await serve(before)
    _, new_address = await serve(after)
    for signing in ({}, {"keyring": KEYRING}):
        held = await take(old_address)
        await take(new_address, held, **signing)
        assert contents(held) == expected(after)
    messages = await raw(new_address, ixfr(10).to_wire())
    answer = dns.message.from_wire(messages[0], xfr=True, one_rr_per_rrset=True).answer
    serials = [rrset[0].serial for rrset in answer if rrset.rdtype == dns.rdatatype.SOA]
    assert serials == [12, 10, 11, 11, 12, 12]
    assert len(answer) == 10


async def test_ixfr_from_an_unknown_serial_is_the_whole_zone_rfc1995_4(serve: Serve) -> None:
    _, after = changed_zone()
    _, address = await serve(after)
    messages = await raw(address, ixfr(9).to_wire())
    answer = dns.message.from_wire(messages[0], xfr=True, one_rr_per_rrset=True).answer
    assert [rrset.rdtype for rrset in answer].count(dns.rdatatype.SOA) == 2
    assert len(answer) == len(expected(after)) + 1


@pytest.mark.parametrize("serial", [12, 13, 2**31 + 11])
async def test_ixfr_of_who_is_up_to_date_is_the_soa_alone_rfc1995_2(serve: Serve, serial: int) -> None:
    _, after = changed_zone()
    _, address = await serve(after)
    messages = await raw(address, ixfr(serial).to_wire())
    answer = dns.message.from_wire(messages[0], xfr=True).answer
    assert len(messages) == 1
    assert [rrset.rdtype for rrset in answer] == [dns.rdatatype.SOA]


async def test_ixfr_by_datagram_is_the_soa_alone_rfc1995_2() -> None:
    _, after = changed_zone()
    reply = await make_primary(after).datagram(ixfr(10).to_wire(), ("127.0.0.1", 1))
    assert reply is not None
    message = dns.message.from_wire(reply)
    assert [rrset.rdtype for rrset in message.answer] == [dns.rdatatype.SOA]
    assert message.answer[0][0].serial == 12


async def test_ixfr_without_its_senders_soa_is_formerr_rfc1995_3(serve: Serve) -> None:
    _, address = await serve(RememberingZone(""))
    (message,) = await raw(address, dns.message.make_query("zone.example.", "IXFR").to_wire())
    assert dns.message.from_wire(message).rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize(
    ("serial", "than", "newer"),
    [
        (1, 0, True),
        (0, 1, False),
        (5, 5, False),
        (0, 2**32 - 1, True),
        (2**31 - 1, 0, True),
        (2**31 + 1, 0, False),
    ],
)
def test_serials_are_compared_on_a_circle_rfc1982_3_2(serial: int, than: int, newer: bool) -> None:
    assert is_newer(serial, than) is newer


# --- the signed rest ----------------------------------------------------------------------------


async def test_a_signed_soa_query_is_answered_signed_over_udp_and_tcp(serve: Serve) -> None:
    primary = make_primary(RememberingZone(""))
    _, address = await serve(primary=primary)
    query = dns.message.make_query("zone.example.", "SOA", use_edns=0)
    query.use_tsig(KEYRING)
    wire = query.to_wire()
    datagram = await primary.datagram(wire, ("127.0.0.1", 53))
    (streamed,) = await raw(address, wire)
    for reply in (datagram, streamed):
        assert reply is not None
        message = dns.message.from_wire(reply, keyring=KEYRING, request_mac=query.mac)
        assert message.had_tsig
        assert message.answer[0].rdtype == dns.rdatatype.SOA


async def test_a_signed_answer_that_does_not_fit_sends_to_tcp_rfc8945_5_3() -> None:
    zone = RememberingZone("\n".join(f"many 60 A 192.0.2.{i}" for i in range(25)))
    query = dns.message.make_query("many.zone.example.", "A")
    query.use_tsig(KEYRING)
    wire = query.to_wire()
    reply = await make_primary(zone).datagram(wire, ("127.0.0.1", 53))
    assert reply is not None
    assert len(reply) <= 512
    message = dns.message.from_wire(reply, keyring=KEYRING, request_mac=query.mac)
    assert message.flags & dns.flags.TC
    assert not message.answer


@pytest.mark.parametrize(
    ("name", "rcode"), [("zone.example.", dns.rcode.REFUSED), ("a.example.", dns.rcode.NOTAUTH)]
)
async def test_notify_to_a_primary_is_turned_down_rfc1996_3_10(name: str, rcode: int) -> None:
    query = dns.message.make_query(name, "SOA")
    query.set_opcode(dns.opcode.NOTIFY)
    reply = await make_primary(RememberingZone("")).datagram(query.to_wire(), ("127.0.0.1", 53))
    assert reply is not None
    message = dns.message.from_wire(reply)
    assert message.rcode() == rcode
    assert message.opcode() == dns.opcode.NOTIFY
    assert query.is_response(message)


# --- any zone, any cut --------------------------------------------------------------------------

LABELS = st.text("abcdefghij-0123456789", min_size=1, max_size=20).map(lambda t: t.strip("-") or "x")


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.lists(LABELS, min_size=1, max_size=4).map(".".join), max_size=60, unique=True),
    seed=st.integers(0, 2**32),
    room=st.integers(0, 400),
)
def test_any_zone_survives_the_codec(names: list[str], seed: int, room: int) -> None:
    rng = random.Random(seed)
    lines = [
        f"{name} 60 "
        + rng.choice(
            ["A 192.0.2.1", "MX 1 " + rng.choice(names), f'TXT "{"y" * rng.randrange(200)}"', "NS ns1"]
        )
        for name in names
    ]
    zone = RememberingZone("\n".join(lines))
    query = dns.message.make_query("zone.example.", "AXFR", use_edns=rng.choice([False, 0])).to_wire()
    parsed = parse_query(query)
    messages = list(
        transfer_messages(query, parsed, plan_transfer(zone, parsed, None, Transport.TCP).records, room)
    )
    found: list[tuple[bytes, int, int, bytes]] = []
    for wire in messages:
        assert len(wire) + room <= 65_535
        for rrset in dns.message.from_wire(wire, xfr=True, one_rr_per_rrset=True).answer:
            found += [(rrset.name.to_wire(), rrset.rdtype, rrset.ttl, rdata.to_wire()) for rdata in rrset]
    assert found[0] == found[-1]
    assert set(found) == expected(zone)
    assert len(found) == len(expected(zone)) + 1


@given(st.binary(max_size=120))
def test_garbage_after_an_ixfr_question_is_formerr_or_a_serial(garbage: bytes) -> None:
    wire = ixfr(7).to_wire()
    question_end = 12 + len(dns.name.from_text("zone.example.").to_wire()) + 4
    message = wire[:question_end] + garbage
    try:
        query = parse_query(wire)
        assert 0 <= ixfr_serial(message, query) < 2**32
    except DnsWireError:
        pass
