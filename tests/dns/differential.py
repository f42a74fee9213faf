"""Generated zones × questions: our answers beside Knot's, section by section.

    python tests/dns/differential.py --zones 2000 --questions 40 --seed 1

docs/dns.md lists where the two differ on purpose; `excused` recognises exactly these.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import dns.message
from dns_zones import SOA_AND_NS, wire, zone_from_text
from knot_peer import Knot, Sections, knot_serving, sections_of
from zone_generator import GeneratedZone

from aspen.dns.lookup import DnsSettings, View
from aspen.dns.respond import Transport, respond
from aspen.dns.wire import DNAME, HTTPS, SVCB
from aspen.dns.zone import MemoryZones, ZoneReader

TC = 0x0200


class Difference(NamedTuple):
    zone: str
    question: str
    ours: Sections
    theirs: Sections

    def __str__(self) -> str:
        lines = [f"{self.question}", self.zone]
        for name, ours, theirs in zip(Sections._fields, self.ours, self.theirs, strict=True):
            if ours != theirs:
                lines += [f"  {name}:", f"    ours   {_show(ours)}", f"    theirs {_show(theirs)}"]
        return "\n".join(lines)


def _show(value: object) -> str:
    return "\n           ".join(map(str, sorted(value))) if isinstance(value, frozenset) else repr(value)


class NoRecords:
    def packet_answers(self, public_key: bytes) -> bytes | None:
        return None


def query_bytes(name: str, rrtype: str, payload: int, number: int) -> bytes:
    """A query of one question; `payload` 0 is one without EDNS."""
    from dns.rdatatype import from_text

    opt = b"\x00\x00\x29" + payload.to_bytes(2, "big") + bytes(6) if payload else b""
    header = number.to_bytes(2, "big") + b"\x01\x00\x00\x01\x00\x00\x00\x00\x00" + bytes((bool(payload),))
    return header + wire(name) + int(from_text(rrtype)).to_bytes(2, "big") + b"\x00\x01" + opt


def excused(ours: Sections, theirs: Sections, zone: ZoneReader) -> str | None:
    """The documented exceptions that a difference falls under; None if there is more to it."""
    if ours.answer >= theirs.answer and any(
        rrtype == DNAME and rdata.endswith(owner) for owner, rrtype, _, rdata in ours.answer
    ):
        # A DNAME that leads below itself: Knot goes round five times, we as often as aliases are
        # followed at all, and either may run out of room on the way.
        return "dname-loop"
    if theirs.flags & TC and ours.answer >= theirs.answer and ours.question == theirs.question:
        return "truncated"  # the client has to ask again by TCP; we put more into the same room
    if ours._replace(additional=theirs.additional) != theirs:
        return None
    services = any(record[1] in (SVCB, HTTPS) for record in ours.answer)
    reasons = set()
    for record in ours.additional ^ theirs.additional:
        owner = record[0]
        if owner.startswith(b"\x01*") and record in theirs.additional:
            reasons.add("wildcard")  # Knot sends the wildcard itself along
        elif zone.node(owner) is None and record in ours.additional:
            reasons.add("wildcard")  # we send what is made of it
        elif record in theirs.answer:
            reasons.add("repeated")  # Knot sends along again what it has just answered
        elif services and record in ours.additional:
            reasons.add("service")  # Knot doesn't send all that RFC 9460 §4.1 asks for
        else:
            return None
    return "+".join(sorted(reasons))


def generate(count: int, seed: int) -> list[GeneratedZone]:
    return [GeneratedZone(number, random.Random(f"{seed}/{number}")) for number in range(count)]


def compare(
    zones: Iterable[GeneratedZone], knot: Knot, questions: int, *, decode: bool
) -> tuple[int, Counter[str], list[Difference]]:
    """Ask both; how many questions, exceptions met by name, and the differences.

    With `decode`, every answer of ours passes through dnspython as well.
    """
    asked, exceptions, differences = 0, Counter[str](), []
    for zone in zones:
        reader = zone_from_text(zone.apex, zone.text())
        view = View.build(NoRecords(), DnsSettings(), MemoryZones([reader]))
        for name, rrtype in zone.questions(questions):
            asked += 1
            query = query_bytes(name, rrtype, (1232, 0, 1232, 4096, 1232)[asked % 5], asked & 0xFFFF)
            reply = respond(query, view, Transport.UDP)
            assert reply is not None
            if decode:
                dns.message.from_wire(reply)
            ours, theirs = sections_of(reply), sections_of(knot.ask(query))
            if ours != theirs:
                reason = excused(ours, theirs, reader)
                if reason is None:
                    differences.append(Difference(zone.text(), f"{name} {rrtype}", ours, theirs))
                else:
                    exceptions[reason] += 1
    return asked, exceptions, differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zones", type=int, default=2_000)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=5)
    options = parser.parse_args()
    zones = generate(options.zones, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        files = [(zone.apex, SOA_AND_NS + zone.text()) for zone in zones]
        with knot_serving(Path(folder) / "knot", files) as knot:
            asked, exceptions, differences = compare(zones, knot, options.questions, decode=False)
            log = (Path(folder) / "knot" / "knot.log").read_text()
    print(log[-2000:])
    for difference in differences[: options.show]:
        print(difference)
    print(f"{options.zones} zones, {asked} questions: {len(differences)} differences")
    print(f"excused: {dict(exceptions)}")
    raise SystemExit(bool(differences))


if __name__ == "__main__":
    main()
