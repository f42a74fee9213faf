"""Negative answers: RFC 2308 §2 (NXDOMAIN, NODATA), §3 (the SOA and its TTL); RFC 8020; RFC 4592 §2.2.2."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

SOA = "aspen.local. 60 IN SOA ns1.aspen.local. hostmaster.aspen.local. 1 3600 600 604800 60"


def assert_negative(reply: dns.message.Message, rcode: int) -> None:
    assert reply.rcode() == rcode
    assert reply.flags & dns.flags.AA
    assert not reply.answer
    assert [rrset.to_text() for rrset in reply.authority] == [SOA]


@pytest.mark.parametrize(
    "owner", ["nope.{z32}.", "a._iroh.{z32}.", "{other}.", "_iroh.{other}.", "nope.", "a.b.c."]
)
def test_rfc2308_2_1_a_name_that_does_not_exist(served: Any, z32: str, other_z32: str, owner: str) -> None:
    name = owner.format(z32=z32, other=other_z32) + "aspen.local"
    for rrtype in ("A", "TXT", "NS", "SOA", "DS", "TYPE65280"):
        assert_negative(served.ask(name, rrtype), dns.rcode.NXDOMAIN)
        assert_negative(served.ask(name, rrtype, use_edns=0), dns.rcode.NXDOMAIN)


@pytest.mark.parametrize("owner", ["_iroh.{z32}.", "deep.er.down.{z32}.", ""])
def test_rfc2308_2_2_a_name_without_the_type(served: Any, z32: str, owner: str) -> None:
    assert_negative(served.ask(owner.format(z32=z32) + "aspen.local", "A"), dns.rcode.NOERROR)


@pytest.mark.parametrize("owner", ["er.down.{z32}.", "down.{z32}.", "_tcp.{z32}.", "ns1."])
def test_rfc8020_an_empty_non_terminal_exists(served: Any, z32: str, owner: str) -> None:
    assert_negative(served.ask(owner.format(z32=z32) + "aspen.local", "TXT"), dns.rcode.NOERROR)


def test_the_keys_own_name_exists_if_anything_below_it_does(serve: Any, z32: str) -> None:
    served = serve('_iroh 30 TXT "x"')
    assert_negative(served.ask(f"{z32}.aspen.local", "TXT"), dns.rcode.NOERROR)


def test_rfc2308_3_the_soas_ttl_is_the_lower_of_its_own_and_its_minimum(serve: Any, z32: str) -> None:
    for ttl, minimum, expected in ((3600, 30, 30), (10, 30, 10), (0, 30, 0)):
        served = serve('_iroh 30 TXT "x"', ttl_s=ttl, negative_ttl_s=minimum)
        soa = served.ask(f"{z32}.aspen.local", "TXT").authority[0]
        assert (soa.ttl, soa[0].minimum) == (expected, minimum)


@pytest.mark.parametrize(
    "label", ["y" * 51, "y" * 53, "l" * 52, "y" * 51 + "b", "y" * 51 + "2", "1_" + "y" * 50]
)
def test_labels_that_are_no_key_are_names_like_any_other(served: Any, label: str) -> None:
    assert_negative(served.ask(f"{label}.aspen.local", "TXT"), dns.rcode.NXDOMAIN)
    assert_negative(served.ask(f"_iroh.{label}.aspen.local", "TXT"), dns.rcode.NXDOMAIN)


def test_a_packet_that_goes_away_is_gone(served: Any, z32: str) -> None:
    assert served.ask(f"{z32}.aspen.local", "A").rcode() == dns.rcode.NOERROR
    served.records.packets.clear()
    assert_negative(served.ask(f"{z32}.aspen.local", "A"), dns.rcode.NXDOMAIN)
