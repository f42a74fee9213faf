"""Answers: RFC 1034 §3.6.2, §4.3.1–2; RFC 1035 §4.1.1; RFC 4343; RFC 6604; RFC 8482."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from aspen.dns.respond import Transport, servfail
from aspen.errors import ConfigError


def texts(rrsets: list[dns.rrset.RRset]) -> list[str]:
    return sorted(line for rrset in rrsets for line in rrset.to_text().splitlines())


def test_a_packets_records_are_answered_under_the_origin(served: Any, z32: str) -> None:
    reply = served.ask(f"_iroh.{z32}.aspen.local")
    assert reply.rcode() == dns.rcode.NOERROR
    assert texts(reply.answer) == [
        f'_iroh.{z32}.aspen.local. 30 IN TXT "addr=192.0.2.1:1234"',
        f'_iroh.{z32}.aspen.local. 30 IN TXT "relay=https://relay.example./"',
    ]
    assert reply.flags & dns.flags.AA
    assert not reply.authority
    assert not reply.additional


@pytest.mark.parametrize(
    ("owner", "rrtype", "expected"),
    [
        ("", "A", "{key}. 300 IN A 192.0.2.1"),
        ("", "AAAA", "{key}. 300 IN AAAA 2001:db8::1"),
        ("", "MX", "{key}. 300 IN MX 10 mail.{key}."),
        ("_http._tcp.", "SRV", "_http._tcp.{key}. 60 IN SRV 0 5 80 www.{key}."),
        ("deep.er.down.", "TXT", 'deep.er.down.{key}. 60 IN TXT "deep"'),
    ],
)
@pytest.mark.parametrize("transport", Transport)
def test_every_record_type_is_answered(
    served: Any, z32: str, owner: str, rrtype: str, expected: str, transport: Transport
) -> None:
    key = f"{z32}.aspen.local"
    reply = served.ask(f"{owner}{key}", rrtype, transport=transport)
    assert texts(reply.answer) == [expected.format(key=key, z32=z32)]


def test_rfc1034_4_3_1_rd_is_copied_and_ra_is_off(served: Any, z32: str) -> None:
    for flags in (0, dns.flags.RD, dns.flags.RD | dns.flags.CD | dns.flags.AD):
        reply = served.ask(f"{z32}.aspen.local", "A", flags=flags)
        assert reply.flags == dns.flags.QR | dns.flags.AA | (flags & dns.flags.RD)


def test_rfc4343_the_questions_case_is_echoed_octet_for_octet(served: Any, z32: str) -> None:
    name = f"_IrOh.{z32.upper()}.AsPeN.LoCaL"
    query = dns.message.make_query(name, "TXT")
    wire = query.to_wire()
    reply = served.ask_wire(wire)
    assert reply[12 : len(wire)] == wire[12:]
    answer = dns.message.from_wire(reply).answer
    assert [rrset.name.to_text() for rrset in answer] == [name + "."]
    negative = dns.message.from_wire(served.ask_wire(dns.message.make_query("x." + name, "TXT").to_wire()))
    assert negative.authority[0].name.to_text() == "AsPeN.LoCaL."


def test_longest_origin_wins_the_root_among_them(serve: Any, z32: str) -> None:
    served = serve('@ 30 TXT "x"', origins=(".", "Local", "aspen.local", "b.example"))
    for origin in ("aspen.local.", "local.", "b.example.", "."):
        reply = served.ask(f"{z32}.{origin}" if origin != "." else f"{z32}.")
        assert reply.rcode() == dns.rcode.NOERROR, origin
        assert len(reply.answer) == 1
    # Between two origins: a name of the upper one.
    reply = served.ask("nope.local.", "A")
    assert texts(reply.authority)[0].startswith("local. ")
    reply = served.ask("nope.aspen.local.", "A")
    assert texts(reply.authority)[0].startswith("aspen.local. ")
    # `aspen.local` is below `local`, `example` lies between `.` and `b.example`: it exists.
    assert served.ask("example.", "A").rcode() == dns.rcode.NOERROR
    assert served.ask("examples.", "A").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("origin", ["aspen.local.", "."])
def test_the_origin_has_soa_and_ns(serve: Any, origin: str) -> None:
    served = serve("", origins=(origin,), serial=7)
    below = "" if origin == "." else origin
    soa = served.ask(origin, "SOA")
    assert texts(soa.answer) == [f"{origin} 3600 IN SOA ns1.{below} hostmaster.{below} 7 3600 600 604800 60"]
    ns = served.ask(origin, "NS")
    assert texts(ns.answer) == [f"{origin} 3600 IN NS ns1.{below}"]
    assert ns.flags & dns.flags.AA


def test_nameservers_and_their_addresses_are_configurable(serve: Any) -> None:
    served = serve(
        "",
        nameservers=("dns.aspen.local", "elsewhere.example"),
        nameserver_addresses=("192.0.2.53", "2001:db8::53"),
        responsible="me.example",
    )
    assert texts(served.ask("aspen.local", "NS").answer) == [
        "aspen.local. 3600 IN NS dns.aspen.local.",
        "aspen.local. 3600 IN NS elsewhere.example.",
    ]
    assert texts(served.ask("dns.aspen.local", "A").answer) == ["dns.aspen.local. 3600 IN A 192.0.2.53"]
    assert texts(served.ask("DNS.aspen.local", "AAAA").answer) == [
        "DNS.aspen.local. 3600 IN AAAA 2001:db8::53"
    ]
    assert " me.example. " in texts(served.ask("x.aspen.local", "A").authority)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"origins": ()},
        {"origins": ("a..b",)},
        {"origins": ("a" * 64,)},
        {"origins": (".".join(["a" * 40] * 3),)},
        {"nameservers": ("..",)},
        {"nameserver_addresses": ("nonsense",)},
        {"responsible": "a..b"},
        {"ttl_s": -1},
        {"negative_ttl_s": 2**31},
        {"serial": 2**32},
    ],
)
def test_settings_that_will_not_do_are_refused(serve: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        serve("", **settings)


def test_rfc8914_a_name_of_no_origin_is_refused(served: Any) -> None:
    reply = served.ask("www.example.com", "A", use_edns=0)
    assert reply.rcode() == dns.rcode.REFUSED
    assert not reply.flags & dns.flags.AA
    assert not reply.answer
    assert not reply.authority
    assert [(option.otype, option.code) for option in reply.options] == [(15, 20)]  # EDE, Not Authoritative
    assert served.ask("www.example.com", "A").opt is None
    assert served.ask("notaspen.local", "A").rcode() == dns.rcode.REFUSED
    assert served.ask("xaspen.local", "SOA").rcode() == dns.rcode.REFUSED
    assert served.ask(".", "NS").rcode() == dns.rcode.REFUSED


def test_a_record_of_another_key_is_not_answered(serve: Any, z32: str, other_z32: str) -> None:
    served = serve(f'@ 30 TXT "mine"\n{other_z32}. 30 TXT "forged"')
    assert served.ask(f"{other_z32}.aspen.local").rcode() == dns.rcode.NXDOMAIN
    assert served.ask(f"{other_z32}.{z32}.aspen.local").rcode() == dns.rcode.NXDOMAIN
    # The key's label counts only directly below the origin.
    assert served.ask(f"{z32}.x.aspen.local").rcode() == dns.rcode.NXDOMAIN


def test_rfc1034_3_6_2_an_alias_is_followed_inside_the_packet(served: Any, z32: str) -> None:
    key = f"{z32}.aspen.local."
    reply = served.ask(f"www.{key}", "A")
    assert [rrset.to_text() for rrset in reply.answer] == [
        f"www.{key} 60 IN CNAME {key}",
        f"{key} 300 IN A 192.0.2.1",
    ]
    assert texts(served.ask(f"www.{key}", "CNAME").answer) == [f"www.{key} 60 IN CNAME {key}"]
    assert texts(served.ask(f"www.{key}", "ANY").answer) == [f"www.{key} 60 IN CNAME {key}"]


def test_rfc1034_3_6_2_chains(serve: Any, z32: str) -> None:
    served = serve(
        """
        a 60 CNAME b.c.KEY.
        b.c 60 CNAME d.KEY.
        d 60 TXT "end"
        out 60 CNAME www.example.
        a2 60 CNAME out.KEY.
        loop 60 CNAME pool.KEY.
        pool 60 CNAME loop.KEY.
        self 60 CNAME self.KEY.
        lost 60 CNAME nowhere.KEY.
        half 60 CNAME c.KEY.
        """
    )
    key = f"{z32}.aspen.local."
    reply = served.ask(f"a.{key}")
    assert [rrset.to_text() for rrset in reply.answer] == [
        f"a.{key} 60 IN CNAME b.c.{key}",
        f"b.c.{key} 60 IN CNAME d.{key}",
        f'd.{key} 60 IN TXT "end"',
    ]
    assert not reply.authority
    # RFC 2308 §2.2: no such type at the chain's end. The SOA says so.
    reply = served.ask(f"a.{key}", "A")
    assert (reply.rcode(), len(reply.answer), len(reply.authority)) == (dns.rcode.NOERROR, 2, 1)
    # An empty non-terminal at the end.
    reply = served.ask(f"half.{key}", "A")
    assert (reply.rcode(), len(reply.answer), len(reply.authority)) == (dns.rcode.NOERROR, 1, 1)
    # RFC 6604 §3: the response code is that of the chain's end.
    reply = served.ask(f"lost.{key}", "A")
    assert (reply.rcode(), len(reply.answer), len(reply.authority)) == (dns.rcode.NXDOMAIN, 1, 1)
    # A target we hold no data of: the resolver goes on from there.
    reply = served.ask(f"a2.{key}", "A")
    assert (reply.rcode(), len(reply.answer), len(reply.authority)) == (dns.rcode.NOERROR, 2, 0)
    for name, links in (("loop", 2), ("self", 1)):
        reply = served.ask(f"{name}.{key}", "A")
        assert (reply.rcode(), len(reply.answer), len(reply.authority)) == (dns.rcode.NOERROR, links, 0)


def test_a_long_chain_is_followed_no_further_than_the_bound(serve: Any, z32: str) -> None:
    served = serve("\n".join(f"c{i} 60 CNAME c{i + 1}.KEY." for i in range(20)) + "\nc20 60 A 192.0.2.1")
    reply = served.ask(f"c0.{z32}.aspen.local", "A")
    assert [rrset.rdtype for rrset in reply.answer] == [dns.rdatatype.CNAME] * 8
    assert len(served.ask(f"c15.{z32}.aspen.local", "A").answer) == 6


def test_rfc8482_4_1_any_gets_one_rrset(served: Any, z32: str) -> None:
    reply = served.ask(f"{z32}.aspen.local", "ANY")
    assert texts(reply.answer) == [f"{z32}.aspen.local. 300 IN A 192.0.2.1"]
    assert served.ask(f"er.down.{z32}.aspen.local", "ANY").rcode() == dns.rcode.NOERROR
    assert served.ask(f"nope.{z32}.aspen.local", "ANY").rcode() == dns.rcode.NXDOMAIN


def test_rfc1035_4_2_1_what_does_not_fit_512_octets_is_cut_and_said_so(serve: Any, z32: str) -> None:
    served = serve("\n".join(f'@ 30 TXT "{i:02} {"x" * 200}"' for i in range(4)))
    name = f"{z32}.aspen.local"
    reply = served.ask(name)
    assert reply.flags & dns.flags.TC
    assert not reply.answer
    assert len(reply.to_wire()) <= 512
    assert len(served.ask(name, transport=Transport.TCP).answer[0]) == 4


def test_servfail_is_for_queries_only(z32: str) -> None:
    query = dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()
    assert dns.message.from_wire(servfail(query) or b"").rcode() == dns.rcode.SERVFAIL
    assert servfail(query[:2] + b"\x80" + query[3:]) is None
    assert servfail(b"short") is None
