"""The shortcut answers as the pipeline does; both answer anything at all, and keep nothing."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import dns.message
import dns.name
import dns.rcode
import dns.rdata
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.dns.fast import FastResponder
from aspen.dns.respond import Transport, respond
from aspen.limits import DNS_PLANS, DNS_UDP_EDNS_BYTES, DNS_UDP_PLAIN_BYTES

RECORDS = """
_iroh 30 TXT "relay=https://relay.example./"
@ 300 A 192.0.2.1
@ 300 MX 10 mail.KEY.
www 60 CNAME KEY.
lost 60 CNAME nowhere.KEY.
deep.er.down 60 TXT "deep"
"""


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("module_serve")(RECORDS, origins=("aspen.local", ".", "x.aspen.local"))


@pytest.fixture(scope="module")
def queries(world: Any, module_z32: str) -> list[bytes]:
    """Queries of every kind, well-formed."""
    names = [
        f"{sub}{key}{origin}"
        for sub in ("", "_iroh.", "www.", "lost.", "er.down.", "nope.", "x4.", "a" * 52 + ".")
        for key in (module_z32, module_z32.upper(), "y" * 52, "y" * 51 + "b", "l" * 52)
        for origin in (".aspen.local", ".x.aspen.local", ".ASPEN.local", ".", ".example")
    ]
    names += [".", "aspen.local", "ns1.aspen.local", f"{module_z32}.{module_z32}.aspen.local"]
    return [
        dns.message.make_query(name, rrtype, **options).to_wire()
        for name in names
        for rrtype in ("A", "TXT", "ANY", "CNAME", "AXFR", "TYPE0", "SOA")
        for options in ({}, {"use_edns": 0, "payload": 600}, {"want_dnssec": True, "flags": 0})
    ]


def mutate(query: bytes, rng: random.Random) -> bytes:
    data = bytearray(query)
    for _ in range(rng.randrange(1, 5)):
        kind = rng.randrange(5)
        at = rng.randrange(len(data)) if data else 0
        if kind == 0 and data:
            data[at] = rng.randrange(256)
        elif kind == 1 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 8)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 8))
        else:
            data = data[: rng.randrange(len(data) + 1)]
    return bytes(data)


def assert_sound(query: bytes, reply: bytes | None, limit: int) -> None:
    if len(query) < 12 or query[2] & 0x80:
        assert reply is None
        return
    assert reply is not None
    assert 12 <= len(reply) <= limit
    assert reply[:2] == query[:2]
    assert reply[2] & 0x80


def test_the_shortcut_agrees_with_the_pipeline(world: Any, queries: list[bytes]) -> None:
    fast = FastResponder(world.view)
    for _ in range(2):  # the second time with plans at hand
        for query in queries:
            reply = respond(query, world.view, Transport.UDP)
            assert reply is not None
            assert fast.answer(query) == reply[2:]
            dns.message.from_wire(reply)


def test_10_000_mutated_and_random_datagrams(world: Any, queries: list[bytes]) -> None:
    rng = random.Random(20_240_601)
    fast = FastResponder(world.view)
    rcodes = set()
    memory = []
    tracemalloc.start()
    try:
        for round_ in range(4):
            for _ in range(2_500):
                query = mutate(rng.choice(queries), rng)
                if rng.random() < 0.1:
                    query = rng.randbytes(rng.randrange(80))
                reply = respond(query, world.view, Transport.UDP)
                assert_sound(query, reply, DNS_UDP_EDNS_BYTES)
                assert fast.answer(query) == (None if reply is None else reply[2:])
                if reply is not None:
                    rcodes.add(reply[3] & 15)
                    if query[10:12] == b"\x00\x00":
                        assert len(reply) <= DNS_UDP_PLAIN_BYTES
                    assert_sound(query, respond(query, world.view, Transport.TCP), 65_535)
                    assert respond(reply, world.view, Transport.UDP) is None  # never an answer to an answer
            if round_:
                memory.append(tracemalloc.get_traced_memory()[0])
            fast = FastResponder(world.view)
    finally:
        tracemalloc.stop()
    assert {0, 1, 3, 4, 5} <= rcodes
    assert memory[-1] - memory[0] < 200_000


def test_plans_are_bounded(world: Any, module_z32: str) -> None:
    fast = FastResponder(world.view)
    for number in range(DNS_PLANS * 2 + 10):
        query = dns.message.make_query(f"n{number}.{module_z32}.aspen.local", "A").to_wire()
        reply = fast.answer(query)
        assert reply is not None
        assert reply[1] & 15 == dns.rcode.NXDOMAIN
        assert len(fast._plans) <= DNS_PLANS


@given(st.binary(max_size=120))
def test_any_octets(world: Any, data: bytes) -> None:
    reply = respond(data, world.view, Transport.UDP)
    assert_sound(data, reply, DNS_UDP_EDNS_BYTES)
    assert FastResponder(world.view).answer(data) == (None if reply is None else reply[2:])


@settings(max_examples=300)
@given(st.data())
def test_any_tail_after_a_plain_header(world: Any, module_z32: str, data: st.DataObject) -> None:
    header = b"\x00\x01" + data.draw(
        st.binary(min_size=10, max_size=10).map(lambda raw: bytes((raw[0] & 1,)) + raw[1:])
    )
    header = header[:3] + b"\x00\x00\x01" + header[6:] if data.draw(st.booleans()) else header
    key = data.draw(
        st.sampled_from([b"\x34" + module_z32.encode(), b"\x05_iroh\x34" + module_z32.encode(), b""])
    )
    tail = data.draw(
        st.sampled_from([b"\x05aspen\x05local\x00\x00\x01\x00\x01", b"\x00\x00\x10\x00\x01", b""])
    )
    query = header + key + tail + data.draw(st.binary(max_size=24))
    reply = respond(query, world.view, Transport.UDP)
    assert_sound(query, reply, DNS_UDP_EDNS_BYTES)
    fast = FastResponder(world.view)
    for _ in range(2):
        assert fast.answer(query) == (None if reply is None else reply[2:])


# --- names in zones --------------------------------------------------------------------------------

ZONE = """
@ 300 SOA ns1.zone.test. hostmaster.zone.test. 7 3600 600 604800 60
@ 300 NS ns1.zone.test.
ns1 300 A 192.0.2.53
www 300 A 192.0.2.80
www 300 A 192.0.2.81
www 300 AAAA 2001:db8::80
alias 300 CNAME www
text 300 TXT "one" "two"
sub 300 NS ns.sub
ns.sub 300 A 192.0.2.54
moved 300 DNAME elsewhere.test.
a.b.c 300 A 192.0.2.1
*.wild 300 A 192.0.2.99
x.wild 300 TXT "not wild"
own 300 A 192.0.2.7
mx 300 MX 10 www
"""


def zone_records(text: str, apex: str) -> list[tuple[bytes, int, int, bytes]]:
    records = []
    for line in filter(None, map(str.strip, text.splitlines())):
        owner, ttl, rrtype, rdata = line.split(None, 3)
        name = dns.name.from_text(owner if owner != "@" else apex + ".", dns.name.from_text(apex))
        parsed = dns.rdata.from_text("IN", rrtype, rdata, origin=dns.name.from_text(apex), relativize=False)
        records.append((name.to_wire().lower(), int(parsed.rdtype), int(ttl), parsed.to_wire()))
    return records


@pytest.fixture(scope="module")
def zone_view() -> Any:
    from aspen.dns.lookup import DnsSettings, View
    from aspen.dns.zone import MemoryZone, MemoryZones, ZoneSettings

    class NoPackets:
        def packet_answers(self, public_key: bytes) -> bytes | None:
            return None

    soa = "@ 300 SOA ns1 h 1 1 1 1 1\n@ 300 NS ns1\nwww 300 A 192.0.2.9\nhidden 60 A 192.0.2.8"
    zones = [
        MemoryZone(dns.name.from_text("zone.test").to_wire(), zone_records(ZONE, "zone.test")),
        MemoryZone(dns.name.from_text("own.zone.test").to_wire(), zone_records(soa, "own.zone.test")),
        MemoryZone(
            dns.name.from_text("closed.test").to_wire(),
            zone_records(soa, "closed.test"),
            ZoneSettings(query_acl=("192.0.2.0/24",)),
        ),
        MemoryZone(
            dns.name.from_text("strict.test").to_wire(),
            zone_records(soa, "strict.test"),
            ZoneSettings(consistency="consistent"),
        ),
    ]
    return View.build(NoPackets(), DnsSettings(origins=("aspen.local", "keys.zone.test")), MemoryZones(zones))


LABELS = ["www", "WWW", "nope", "NoPe", "alias", "text", "sub", "moved", "a", "c", "wild", "ns1", "own"]
LABELS += ["hostmaster", "keys", "mx", "x", "*", "n", "ab", "abc", "y" * 52, "y" * 51 + "b"]
PARENTS = [
    *(
        f"{below}zone.test"
        for below in ("", "c.", "b.c.", "sub.", "moved.", "wild.", "own.", "keys.", "none.")
    ),
    *("ZONE.test", "closed.test", "strict.test", "aspen.local", "test", ""),
]


def test_names_in_zones_are_answered_alike(zone_view: Any) -> None:
    fast = FastResponder(zone_view)
    quick = 0
    for _ in range(2):  # plans made, then used
        for parent in PARENTS:
            for label in LABELS:
                for rrtype in ("A", "AAAA", "TXT", "MX", "NS", "CNAME", "DS", "ANY", "TYPE65400"):
                    for options in ({}, {"use_edns": 0, "payload": 600}, {"want_dnssec": True}):
                        query = dns.message.make_query(f"{label}.{parent}", rrtype, **options).to_wire()
                        expected = respond(query, zone_view, Transport.UDP)
                        assert expected is not None
                        assert query[:2] + (fast.answer(query) or b"") == expected, (label, parent, rrtype)
                        quick += fast.quick(query) is not None
    assert quick > 1_000, "the shortcut is taken"


def test_mutated_queries_for_zones_are_answered_alike(zone_view: Any) -> None:
    fast, rng = FastResponder(zone_view), random.Random(3)
    for number in range(4_000):
        name = f"{rng.choice(LABELS)}.{rng.choice(PARENTS)}"
        options = rng.choice([{}, {"use_edns": 0}, {"want_dnssec": True}])
        query = mutate(dns.message.make_query(name, rng.choice(("A", "TXT")), **options).to_wire(), rng)
        expected = respond(query, zone_view, Transport.UDP)
        answered = fast.answer(query)
        assert (None if answered is None else query[:2] + answered) == expected, number


def test_a_renewed_view_forgets_its_plans(zone_view: Any) -> None:
    """What was found out about a zone holds until it changes: then there is another responder."""
    from aspen.dns.zone import MemoryZone, MemoryZones

    fast = FastResponder(zone_view)
    query = dns.message.make_query("later.zone.test", "A").to_wire()
    assert fast.quick(query) is not None
    assert fast.quick(query)[1] & 15 == dns.rcode.NXDOMAIN  # type: ignore[index]
    changed = MemoryZone(
        dns.name.from_text("zone.test").to_wire(), zone_records(ZONE + "* 60 A 192.0.2.3", "zone.test")
    )
    view = zone_view._replace(zones=MemoryZones([changed]))
    reply = FastResponder(view).answer(query)
    assert reply is not None
    assert reply[1] & 15 == dns.rcode.NOERROR
