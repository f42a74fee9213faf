"""Answers from authored zones: RFC 1034 §4.3.2, RFC 2181 §5–9, RFC 2308, RFC 8482, RFC 9471."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest
from dns_zones import zone_from_text

from aspen.dns.respond import Transport
from aspen.dns.zone import ZoneSettings

ZONE = """
@ MX 10 mail
a A 192.0.2.1
a A 192.0.2.2
mail A 192.0.2.25
mail AAAA 2001:db8::25
a.b.ent TXT "below empty names"
www CNAME a
far CNAME www.elsewhere.test.
gone CNAME nowhere
to-zone CNAME here.other.
to-sub CNAME x.sub
sub NS ns.sub
sub NS mail
sub NS ns.elsewhere.test.
sub DS 1 8 2 abababababababababababababababababababababababababababababababab
ns.sub A 192.0.2.54
occluded.sub A 192.0.2.99
_http._tcp SRV 0 0 80 mail
svc HTTPS 1 . alpn=h2
svc A 192.0.2.80
loop CNAME pool
pool CNAME loop
"""


@pytest.fixture
def zones(serve: Any) -> Any:
    other = zone_from_text("other.", "here CNAME back.example.\nhere2 A 192.0.2.7")
    child = zone_from_text("deep.example.", "@ A 192.0.2.200\nx A 192.0.2.201")
    return serve(zones=[zone_from_text("example.", ZONE), other, child])


def lines(section: Any) -> list[str]:
    return sorted(line for rrset in section for line in rrset.to_text().splitlines())


SOA = "example. 300 IN SOA ns1.example. hostmaster.example. 1 7200 900 1209600 300"


def test_an_rrset_is_answered_whole(zones: Any) -> None:
    reply = zones.ask("a.example.", "A")
    assert lines(reply.answer) == ["a.example. 300 IN A 192.0.2.1", "a.example. 300 IN A 192.0.2.2"]
    assert reply.flags & dns.flags.AA
    assert not reply.flags & dns.flags.RA
    assert not reply.authority


@pytest.mark.parametrize(
    ("name", "rrtype", "rcode"),
    [
        ("a.example.", "AAAA", dns.rcode.NOERROR),
        ("ent.example.", "A", dns.rcode.NOERROR),
        ("b.ent.example.", "TXT", dns.rcode.NOERROR),
        ("x.ent.example.", "TXT", dns.rcode.NXDOMAIN),
        ("nope.example.", "A", dns.rcode.NXDOMAIN),
        ("a.b.c.d.example.", "ANY", dns.rcode.NXDOMAIN),
        ("a.example.", "RRSIG", dns.rcode.NOERROR),
        ("example.", "TYPE65280", dns.rcode.NOERROR),
    ],
)
def test_rfc2308_2_no_such_name_and_no_such_type_are_told_apart(
    zones: Any, name: str, rrtype: str, rcode: int
) -> None:
    reply = zones.ask(name, rrtype)
    assert reply.rcode() == rcode
    assert not reply.answer
    assert lines(reply.authority) == [SOA]


def test_rfc2308_3_the_soas_ttl_is_the_lower_of_its_own_and_its_minimum(serve: Any) -> None:
    zone = zone_from_text("example.", "@ 100 SOA ns1 hostmaster 1 7200 900 1209600 300")
    reply = serve(zones=[zone]).ask("nope.example.", "A")
    assert reply.authority[0].ttl == 100


def test_rfc4343_case_is_echoed_also_in_what_is_below_and_above(zones: Any) -> None:
    reply = zones.ask("WwW.ExAmPlE.", "A")
    assert lines(reply.answer)[0] == "WwW.ExAmPlE. 300 IN CNAME a.example."
    negative = zones.ask("NoPe.ExAmPlE.", "A")
    assert lines(negative.authority)[0].startswith("ExAmPlE. 300 IN SOA ns1.example. ")


def test_4_3_2_3b_a_cut_is_answered_with_a_referral(zones: Any) -> None:
    for name in ("sub.example.", "x.y.sub.example.", "occluded.sub.example."):
        reply = zones.ask(name, "A")
        assert reply.rcode() == dns.rcode.NOERROR
        assert not reply.flags & dns.flags.AA
        assert not reply.answer
        assert lines(reply.authority) == [
            "sub.example. 300 IN NS mail.example.",
            "sub.example. 300 IN NS ns.elsewhere.test.",
            "sub.example. 300 IN NS ns.sub.example.",
        ]
        assert lines(reply.additional) == [
            "mail.example. 300 IN A 192.0.2.25",
            "mail.example. 300 IN AAAA 2001:db8::25",
            "ns.sub.example. 300 IN A 192.0.2.54",
        ]


def test_rfc4035_3_1_4_1_the_parent_answers_for_ds_at_the_cut(zones: Any, serve: Any) -> None:
    reply = zones.ask("sub.example.", "DS")
    assert reply.flags & dns.flags.AA
    assert len(reply.answer) == 1
    below = zones.ask("x.sub.example.", "DS")
    assert not below.flags & dns.flags.AA
    # At the apex of a zone whose parent is here, too: the parent answers.
    assert lines(zones.ask("deep.example.", "DS").authority) == [SOA]
    assert lines(zones.ask("example.", "DS").authority) == [SOA]


def test_rfc9471_3_1_glue_comes_whole_or_under_tc(serve: Any) -> None:
    servers = "\n".join(f"sub NS {'n' * 40}{i}.sub\n{'n' * 40}{i}.sub AAAA 2001:db8::{i}" for i in range(12))
    served = serve(zones=[zone_from_text("example.", servers)])
    cut = served.ask("x.sub.example.", "A")
    assert cut.flags & dns.flags.TC
    whole = served.ask("x.sub.example.", "A", use_edns=0, payload=1232)
    assert not whole.flags & dns.flags.TC
    assert len(whole.additional) == 12


def test_rfc2181_9_additional_records_are_dropped_without_tc(serve: Any) -> None:
    records = "\n".join(
        f"@ MX {i} {'m' * 20}{i}\n{'m' * 20}{i} A 192.0.2.{i}\n{'m' * 20}{i} AAAA 2001:db8::{i}"
        for i in range(8)
    )
    served = serve(zones=[zone_from_text("example.", records)])
    small = served.ask("example.", "MX")
    assert not small.flags & dns.flags.TC
    assert len(small.answer[0]) == 8
    assert 0 < len(small.additional) < 16
    assert len(served.ask("example.", "MX", transport=Transport.TCP).additional) == 16


def test_rfc2181_9_an_answer_that_does_not_fit_is_under_tc_in_whole_rrsets(serve: Any) -> None:
    texts = "\n".join(f'@ TXT "{i:02}{"x" * 200}"' for i in range(5))
    served = serve(zones=[zone_from_text("example.", texts + "\nal CNAME @")])
    reply = served.ask("al.example.", "TXT")
    assert reply.flags & dns.flags.TC
    assert [rrset.rdtype for rrset in reply.answer] == [5]
    assert len(reply.to_wire()) <= 512
    assert len(served.ask("al.example.", "TXT", transport=Transport.TCP).answer[1]) == 5


@pytest.mark.parametrize(
    ("name", "rrtype", "additional"),
    [
        ("example.", "MX", ["mail.example. 300 IN A 192.0.2.25", "mail.example. 300 IN AAAA 2001:db8::25"]),
        ("example.", "NS", ["ns1.example. 3600 IN A 192.0.2.53"]),
        (
            "_http._tcp.example.",
            "SRV",
            ["mail.example. 300 IN A 192.0.2.25", "mail.example. 300 IN AAAA 2001:db8::25"],
        ),
        ("svc.example.", "HTTPS", ["svc.example. 300 IN A 192.0.2.80"]),
    ],
)
def test_4_3_2_6_hosts_that_an_answer_names_come_with_their_addresses(
    zones: Any, serve: Any, name: str, rrtype: str, additional: list[str]
) -> None:
    assert lines(zones.ask(name, rrtype).additional) == additional
    minimal = serve(zones=[zone_from_text("example.", ZONE)], minimal_responses=True)
    reply = minimal.ask(name, rrtype)
    assert reply.answer
    assert not reply.additional
    assert len(minimal.ask("x.sub.example.", "A").additional) == 1  # what a referral can't do without


def test_3_6_2_an_alias_is_followed_through_all_data_we_hold(zones: Any) -> None:
    assert lines(zones.ask("www.example.", "A").answer)[0] == "a.example. 300 IN A 192.0.2.1"
    assert lines(zones.ask("www.example.", "CNAME").answer) == ["www.example. 300 IN CNAME a.example."]
    # The target's owner of no data here: the resolver goes on.
    reply = zones.ask("far.example.", "A")
    assert (reply.rcode(), len(reply.answer), len(reply.authority)) == (0, 1, 0)
    # RFC 6604 §3, RFC 2308 §2.1: the end of the chain decides.
    reply = zones.ask("gone.example.", "A")
    assert (reply.rcode(), len(reply.answer), lines(reply.authority)) == (3, 1, [SOA])
    # Into another zone and back.
    reply = zones.ask("to-zone.example.", "A")
    assert lines(reply.answer) == [
        "here.other. 300 IN CNAME back.example.",
        "to-zone.example. 300 IN CNAME here.other.",
    ]
    assert (reply.rcode(), lines(reply.authority)) == (3, [SOA])
    # Into a cut: the alias is ours, so AA stays.
    reply = zones.ask("to-sub.example.", "A")
    assert len(reply.answer) == 1
    assert len(reply.authority[0]) == 3
    assert reply.flags & dns.flags.AA


def test_loops_and_long_chains_end(zones: Any, serve: Any) -> None:
    reply = zones.ask("loop.example.", "A")
    assert (reply.rcode(), len(reply.answer)) == (0, 2)
    chain = "\n".join(f"c{i} CNAME c{i + 1}" for i in range(30))
    reply = serve(zones=[zone_from_text("example.", chain)]).ask("c0.example.", "A")
    assert (reply.rcode(), len(reply.answer), len(reply.authority)) == (0, 8, 0)


def test_the_longest_zone_wins_and_ends_at_a_label(zones: Any) -> None:
    assert lines(zones.ask("x.deep.example.", "A").answer) == ["x.deep.example. 300 IN A 192.0.2.201"]
    assert lines(zones.ask("y.deep.example.", "A").authority)[0].startswith("deep.example.")
    assert zones.ask("notexample.", "A").rcode() == dns.rcode.REFUSED
    assert zones.ask("xexample.", "SOA").rcode() == dns.rcode.REFUSED


def test_a_disabled_zone_is_not_there(serve: Any) -> None:
    served = serve(zones=[zone_from_text("example.", ZONE, ZoneSettings(enabled=False))])
    assert served.ask("a.example.", "A").rcode() == dns.rcode.REFUSED


def test_rfc8482_4_1_any_gets_one_rrset(zones: Any) -> None:
    reply = zones.ask("mail.example.", "ANY")
    assert lines(reply.answer) == ["mail.example. 300 IN A 192.0.2.25"]
    assert lines(zones.ask("www.example.", "ANY").answer) == ["www.example. 300 IN CNAME a.example."]


def test_rfc1035_4_1_4_names_are_compressed_and_keep_their_case(serve: Any) -> None:
    served = serve(
        zones=[zone_from_text("example.", "@ NS Ns2\nNs2 A 192.0.2.2\n@ MX 1 Ns2\nsrv SRV 0 0 1 Ns2")]
    )
    query = dns.message.make_query("example.", "NS").to_wire()
    reply = served.ask_wire(query)
    # Two NS and two addresses: every owner a pointer, both hosts a label and a pointer.
    assert len(reply) == len(query) + 2 * (12 + 6) + 2 * (12 + 4)
    assert "Ns2.example." in dns.message.from_wire(reply).to_text()
    # RFC 3597 §4: names in younger types stand whole.
    srv = served.ask_wire(dns.message.make_query("srv.example.", "SRV").to_wire())
    assert b"\x03Ns2\x07example\x00" in srv


def test_pkarr_names_zones_and_origins_in_one_search(serve: Any, z32: str) -> None:
    authored = zone_from_text(
        "aspen.local.",
        f"www A 192.0.2.1\n{z32} A 192.0.2.66\nmine CNAME _iroh.{z32}\nwild.{z32} A 192.0.2.67",
    )
    served = serve(
        '_iroh 30 TXT "x"\nout 30 CNAME www.aspen.local.\nback 30 CNAME mine.aspen.local.', [authored]
    )
    key = f"{z32}.aspen.local."
    # Static records of an origin come from the zone of its name; keys resolve under it still, and a
    # name under a key is the key's.
    assert lines(served.ask("www.aspen.local.", "A").answer) == ["www.aspen.local. 300 IN A 192.0.2.1"]
    assert served.ask(f"wild.{key}", "A").rcode() == dns.rcode.NXDOMAIN
    # Negative answers of both carry the zone's SOA.
    for name in (f"nope.{key}", "nope.aspen.local."):
        (soa,) = served.ask(name, "A").authority
        assert soa.to_text().startswith("aspen.local. 300 IN SOA ns1.aspen.local. hostmaster.aspen.local. 1 ")
    # Aliases lead from a zone into a packet, out of it, and on.
    assert lines(served.ask("mine.aspen.local.", "TXT").answer) == [
        f'_iroh.{key} 30 IN TXT "x"',
        f"mine.aspen.local. 300 IN CNAME _iroh.{key}",
    ]
    assert len(served.ask(f"out.{key}", "A").answer) == 2
    assert len(served.ask(f"back.{key}", "TXT").answer) == 3
    assert lines(served.ask(f"out.{key}", "AAAA").authority)[0].startswith("aspen.local. 300 IN SOA")


def test_rfc8914_4_19_a_closed_zone_is_refused_and_never_leaks(serve: Any) -> None:
    closed = zone_from_text(
        "closed.", "a A 192.0.2.1", ZoneSettings(query_acl=("192.0.2.0/24", "2001:db8::/32"))
    )
    served = serve(zones=[closed, zone_from_text("open.", "a CNAME a.closed.")])
    reply = served.ask("a.closed.", "A", use_edns=0)
    assert reply.rcode() == dns.rcode.REFUSED
    assert [option.code for option in reply.options] == [18]
    assert not served.ask_for_reply(dns.message.make_query("a.closed.", "A").to_wire()).shared
    assert len(served.ask("a.open.", "A").answer) == 1
    for client in (
        b"\xc0\x00\x02\x09",
        bytes(10) + b"\xff\xff\xc0\x00\x02\x09",
        b"\x20\x01\x0d\xb8" + bytes(12),
    ):
        served.client = client
        assert len(served.ask("a.closed.", "A").answer) == 1
        assert len(served.ask("a.open.", "A").answer) == 2


def test_the_strictest_zone_on_the_way_decides_the_barrier(serve: Any) -> None:
    served = serve(
        zones=[
            zone_from_text("a.", "x CNAME x.b."),
            zone_from_text("b.", "x CNAME x.c.", ZoneSettings(consistency="leader")),
            zone_from_text("c.", "x A 192.0.2.1", ZoneSettings(consistency="consistent")),
        ]
    )
    for name, consistency in (
        ("x.a", "leader"),
        ("x.c", "consistent"),
        ("nope.c", "consistent"),
        ("y.a", "stale"),
    ):
        reply = served.ask_for_reply(dns.message.make_query(name, "A").to_wire())
        assert reply.consistency == consistency
