"""Wildcards: RFC 4592, its own example of §2.2.1 among others."""

from __future__ import annotations

from typing import Any

import dns.rcode
import pytest
from dns_zones import zone_from_text

EXAMPLE = """
* 3600 TXT "this is a wildcard"
* 3600 MX 10 host1
sub.* 3600 TXT "this is not a wildcard"
host1 3600 A 192.0.2.1
_ssh._tcp.host1 3600 SRV 0 0 22 host1
_ssh._tcp.host2 3600 SRV 0 0 22 host2
subdel 3600 NS ns.example.com.
subdel 3600 NS ns.example.net.
"""


@pytest.fixture(scope="module")
def served(module_serve: Any) -> Any:
    return module_serve(zones=[zone_from_text("example.", EXAMPLE)])


@pytest.mark.parametrize(
    ("name", "rrtype"),
    [("host3.example.", "MX"), ("foo.bar.example.", "TXT"), ("HOST3.example.", "TXT"), ("*.example.", "TXT")],
)
def test_2_2_1_these_are_synthesized_with_the_name_asked_for_as_owner(
    served: Any, name: str, rrtype: str
) -> None:
    reply = served.ask(name, rrtype)
    assert reply.rcode() == dns.rcode.NOERROR
    assert [rrset.name.to_text() for rrset in reply.answer] == [name]


@pytest.mark.parametrize(
    ("name", "rrtype", "rcode"),
    [
        ("host3.example.", "A", dns.rcode.NOERROR),  # no such type at the wildcard
        ("host1.example.", "MX", dns.rcode.NOERROR),  # the name exists
        ("sub.*.example.", "MX", dns.rcode.NOERROR),
        ("_telnet._tcp.host1.example.", "SRV", dns.rcode.NXDOMAIN),  # the closest encloser has no wildcard
        ("ghost.*.example.", "MX", dns.rcode.NXDOMAIN),
        ("host2.example.", "TXT", dns.rcode.NOERROR),  # an empty non-terminal exists
        ("_tcp.host2.example.", "TXT", dns.rcode.NOERROR),
    ],
)
def test_2_2_1_these_are_not(served: Any, name: str, rrtype: str, rcode: int) -> None:
    reply = served.ask(name, rrtype)
    assert (reply.rcode(), len(reply.answer)) == (rcode, 0)
    assert reply.authority[0].name.to_text() == "example."


def test_2_2_1_a_cut_hides_the_wildcard(served: Any) -> None:
    reply = served.ask("host.subdel.example.", "A")
    assert (reply.rcode(), len(reply.answer)) == (dns.rcode.NOERROR, 0)
    assert reply.authority[0].name.to_text() == "subdel.example."


def test_3_3_3_an_alias_at_a_wildcard(serve: Any) -> None:
    served = serve(zones=[zone_from_text("example.", "* CNAME a.b\na.b A 192.0.2.1\nx.b TXT x")])
    reply = served.ask("q.r.example.", "A")
    assert [rrset.to_text() for rrset in reply.answer] == [
        "q.r.example. 300 IN CNAME a.b.example.",
        "a.b.example. 300 IN A 192.0.2.1",
    ]
    assert served.ask("q.b.example.", "A").rcode() == dns.rcode.NXDOMAIN


def test_a_wildcard_in_a_nearer_zone_and_below_the_apex_of_the_root(serve: Any) -> None:
    served = serve(
        zones=[zone_from_text("example.", "* A 192.0.2.1"), zone_from_text("sub.example.", "a A 192.0.2.2")]
    )
    assert served.ask("x.sub.example.", "A").rcode() == dns.rcode.NXDOMAIN
    assert len(served.ask("x.dub.example.", "A").answer) == 1
    root = serve(zones=[zone_from_text(".", "* A 192.0.2.1")], origins=("aspen.local",))
    assert len(root.ask("any.name.at.all.", "A").answer) == 1
