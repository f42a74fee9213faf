"""Packets kept as zones: names moved under every origin, wildcards, DNAME (RFC 3597, 4592, 6672)."""

from __future__ import annotations

from typing import Any

import dns.message
import dns.rcode
import pytest

from aspen.dns.fast import FastResponder
from aspen.dns.packet_zone import PacketZone, build_ready_answers
from aspen.dns.respond import Transport, respond
from aspen.z32 import encode_key

RECORDS = """
_http._tcp 60 SRV 0 5 80 Www.KEY.
@ 60 HTTPS 1 svc.KEY. alpn=h2
@ 60 SVCB 0 www.elsewhere.example.
www 60 CNAME KEY.
@ 60 A 192.0.2.1
mail 60 MX 5 www.KEY.
*.wild 60 TXT "wild"
a.ent.wild 60 TXT "tame"
old 60 DNAME new.KEY.
a.new 60 A 192.0.2.2
ns 60 NS somewhere.example.
"""


@pytest.fixture(scope="module")
def served(module_serve: Any) -> Any:
    return module_serve(RECORDS, origins=("aspen.local", "."))


@pytest.mark.parametrize("origin", ["aspen.local.", "ASPEN.local.", ""])
def test_names_in_rdata_move_under_the_origin_that_was_asked(
    served: Any, module_z32: str, origin: str
) -> None:
    key = f"{module_z32}.{origin}"
    expected = {
        ("_http._tcp.", "SRV"): f"0 5 80 Www.{key}",
        ("", "HTTPS"): f'1 svc.{key} alpn="h2"',
        ("", "SVCB"): "0 www.elsewhere.example.",
        ("mail.", "MX"): f"5 www.{key}",
        ("old.", "DNAME"): f"new.{key}",
        ("ns.", "NS"): "somewhere.example.",
    }
    for (owner, rrtype), rdata in expected.items():
        (rrset,) = served.ask(f"{owner}{key}", rrtype, use_edns=0).answer
        assert (rrset.name.to_text(), rrset[0].to_text()) == (f"{owner}{key}", rdata)


def test_it_is_searched_like_a_zone_but_its_soa_is_the_origins(served: Any, module_z32: str) -> None:
    key = f"{module_z32}.aspen.local."
    assert [r.to_text() for r in served.ask(f"www.{key}", "A").answer] == [
        f"www.{key} 60 IN CNAME {key}",
        f"{key} 60 IN A 192.0.2.1",
    ]
    assert served.ask(f"x.y.wild.{key}", "TXT").answer[0].name.to_text() == f"x.y.wild.{key}"
    assert len(served.ask(f"a.old.{key}", "A").answer) == 3
    for name, rcode in (
        ("x.ent.wild.", dns.rcode.NXDOMAIN),
        ("ent.wild.", dns.rcode.NOERROR),
        ("nope.", dns.rcode.NXDOMAIN),
        ("x.ns.", dns.rcode.NXDOMAIN),  # NS in a packet are data, not a cut
    ):
        reply = served.ask(f"{name}{key}", "A")
        assert (reply.rcode(), len(reply.answer)) == (rcode, 0)
        assert reply.authority[0].to_text().startswith("aspen.local. 60 IN SOA ")


def test_the_shortcut_agrees_here_too(served: Any, module_z32: str) -> None:
    fast = FastResponder(served.view)
    for name in ("", "_http._tcp.", "www.", "x.wild.", "a.old.", "nope."):
        for rrtype in ("A", "SRV", "TXT", "ANY", "HTTPS"):
            query = dns.message.make_query(f"{name}{module_z32}.aspen.local.", rrtype).to_wire()
            reply = respond(query, served.view, Transport.UDP)
            assert reply is not None
            assert fast.answer(query) == reply[2:]


def test_the_block_does_not_depend_on_the_order_of_records(packet: Any, z32: str) -> None:
    lines = [line for line in RECORDS.splitlines() if line]
    blocks = {build_ready_answers(packet("\n".join(order)), z32.encode()) for order in (lines, lines[::-1])}
    assert len(blocks) == 1
    zone = PacketZone(blocks.pop(), b"\x34" + z32.encode() + b"\x01O\x00")
    apex = zone.node(b"\x34" + z32.encode() + b"\x01o\x00")
    assert apex is not None
    assert set(apex) == {1, 64, 65}


def test_another_keys_packet_is_reached_by_an_alias(serve: Any, z32: str, other_z32: str) -> None:
    served = serve(f"to 60 CNAME _http._tcp.{other_z32}.aspen.local.")
    served.put("_http._tcp 60 SRV 0 5 80 h.KEY.", bytes(32))
    assert encode_key(bytes(32)) == other_z32
    reply = served.ask(f"to.{z32}.aspen.local", "SRV")
    assert reply.answer[1][0].to_text() == f"0 5 80 h.{other_z32}.aspen.local."
