"""DNAME: RFC 6672 §2.2, §2.3, §3.1, §3.2."""

from __future__ import annotations

from typing import Any

import dns.message
import dns.rcode
from dns_zones import zone_from_text

from aspen.dns.respond import Transport

ZONE = """
old DNAME new
old TXT "at the owner itself"
new A 192.0.2.1
a.new A 192.0.2.2
*.w.new A 192.0.2.3
away DNAME elsewhere.test.
over DNAME other.
up DNAME up.up
"""


def answer(reply: Any) -> list[str]:
    return [rrset.to_text() for rrset in reply.answer]


def served(serve: Any) -> Any:
    return serve(zones=[zone_from_text("example.", ZONE), zone_from_text("other.", "a.b A 192.0.2.9")])


def test_3_1_names_below_are_moved_and_a_cname_with_the_dnames_ttl_says_so(serve: Any) -> None:
    reply = served(serve).ask("A.Old.example.", "A")
    assert answer(reply) == [
        "Old.example. 300 IN DNAME new.example.",
        "A.Old.example. 300 IN CNAME A.new.example.",
        "A.new.example. 300 IN A 192.0.2.2",
    ]
    assert len(served(serve).ask("x.w.old.example.", "A").answer) == 3


def test_2_3_the_owner_itself_is_not_moved(serve: Any) -> None:
    assert answer(served(serve).ask("old.example.", "DNAME")) == ["old.example. 300 IN DNAME new.example."]
    assert len(served(serve).ask("old.example.", "TXT").answer) == 1
    assert not served(serve).ask("old.example.", "A").answer


def test_3_2_out_of_our_data_and_into_another_zone(serve: Any) -> None:
    reply = served(serve).ask("x.away.example.", "A")
    assert answer(reply)[1:] == ["x.away.example. 300 IN CNAME x.elsewhere.test."]
    assert reply.rcode() == dns.rcode.NOERROR
    assert answer(served(serve).ask("a.b.over.example.", "A"))[-1] == "a.b.other. 300 IN A 192.0.2.9"
    reply = served(serve).ask("nope.old.example.", "A")
    assert (reply.rcode(), len(reply.answer), len(reply.authority)) == (dns.rcode.NXDOMAIN, 2, 1)


def test_a_question_for_the_cname_ends_with_it(serve: Any) -> None:
    assert len(served(serve).ask("a.old.example.", "CNAME").answer) == 2


def test_2_2_a_name_that_grows_too_long_is_yxdomain(serve: Any) -> None:
    long = ".".join(["x" * 60] * 3 + ["y" * 50])
    reply = serve(zones=[zone_from_text("example.", f"d DNAME {'z' * 40}")]).ask(f"{long}.d.example.", "A")
    assert reply.rcode() == dns.rcode.YXDOMAIN
    assert [rrset.rdtype for rrset in reply.answer] == [39]


def test_a_dname_below_itself_ends(serve: Any) -> None:
    reply = served(serve).ask("x.up.example.", "A", transport=Transport.TCP)
    assert reply.rcode() == dns.rcode.NOERROR
    assert len(reply.answer) == 9  # the DNAME, which is said once, and eight aliases
    query = dns.message.make_query("x.up.example.", "A").to_wire()
    assert served(serve).ask_wire(query, Transport.TCP)[6:8] == b"\x00\x09"
