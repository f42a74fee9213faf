"""Seeded zones and questions: small trees full of the corners where servers differ."""

from __future__ import annotations

import random
from collections.abc import Iterator

APEX_LABEL = "z{number}"
_LABELS = ("a", "b", "c", "d", "ns", "Mail", "_tcp", "*", "x\\.y", "a")
_RDATA_TYPES = (
    "A",
    "AAAA",
    "TXT",
    "MX",
    "SRV",
    "CAA",
    "HTTPS",
    "SVCB",
    "NAPTR",
    "TLSA",
    "SSHFP",
    "PTR",
    "TYPE65400",
    "SPF",
    "URI",
    "RP",
    "HINFO",
    "LOC",
    "AFSDB",
    "BIG",
    "TWO",
)
QTYPES = (
    "A",
    "A",
    "AAAA",
    "TXT",
    "MX",
    "NS",
    "CNAME",
    "DNAME",
    "DS",
    "ANY",
    "SOA",
    "SRV",
    "HTTPS",
    "PTR",
    "TYPE65400",
    "CAA",
    "RRSIG",
    "NSEC",
    "DNSKEY",
)


class GeneratedZone:
    """Records by owner (relative text, `@` the apex), kept free of what no zone may hold."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.apex = f"{APEX_LABEL.format(number=number)}.test."
        self.records: dict[str, dict[str, list[str]]] = {"@": {}}
        self._rng = rng
        self._number = number
        self._fill()

    def text(self) -> str:
        """Without SOA and NS of the apex."""
        lines = []
        for owner, types in self.records.items():
            for rrtype, rdatas in types.items():
                ttl = 60 * (1 + (len(owner) + len(rrtype)) % 5)
                lines += [f"{owner} {ttl} {rrtype} {rdata}" for rdata in dict.fromkeys(rdatas)]
        return "\n".join(lines) + "\n"

    def _fill(self) -> None:
        rng = self._rng
        for _ in range(rng.randrange(2, 14)):
            owner = self._owner()
            kind = rng.random()
            if kind < 0.15:
                self._put_alone(owner, "CNAME", self._target())
            elif kind < 0.25:
                self._put_dname(owner)
            elif kind < 0.38:
                self._put_cut(owner)
            else:
                self._put_data(owner)

    def _owner(self) -> str:
        rng = self._rng
        if rng.random() < 0.08:
            return "@"
        labels = [rng.choice(_LABELS) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
        known = [owner for owner in self.records if owner != "@"]
        if known and rng.random() < 0.4:
            return ".".join([labels[0], rng.choice(known)])
        return ".".join(labels)

    def _target(self) -> str:
        """A host: in the zone (perhaps not existing), or in nobody's."""
        rng = self._rng
        if rng.random() < 0.15:
            return rng.choice(("www.elsewhere.", "NS.Other.example.", "."))
        known = list(self.records)
        if rng.random() < 0.7:
            target = rng.choice(known)
            if rng.random() < 0.2 and target != "@":
                target = f"q.{target}"
            return target.replace("*", "w")
        return rng.choice(("a", "b.a", "nope", "mail", "ns", "a.b.c", "*.a"))

    def _above(self, owner: str) -> Iterator[str]:
        """Owners from `owner` up to the apex, in the spelling they have here."""
        folded = {known.lower(): known for known in self.records}
        labels = _split(owner)
        for start in range(len(labels)):
            name = ".".join(labels[start:]).lower()
            if name in folded:
                yield folded[name]

    def _may_hold(self, owner: str) -> bool:
        """Whether data may be put at an owner: nothing above it cuts it off, nothing at it excludes it."""
        for name in self._above(owner):
            types = self.records[name]
            if "CNAME" in types and name.lower() == owner.lower():
                return False
            if ("DNAME" in types or "NS" in types) and (name.lower() != owner.lower() or "NS" in types):
                return False
        return True

    def _has_below(self, owner: str) -> bool:
        return any(known.lower().endswith("." + owner.lower()) for known in self.records)

    def _spelled(self, owner: str) -> str:
        return next((known for known in self.records if known.lower() == owner.lower()), owner)

    def _put_alone(self, owner: str, rrtype: str, rdata: str) -> None:
        owner = self._spelled(owner)
        if owner != "@" and owner not in self.records and self._may_hold(owner):
            self.records[owner] = {rrtype: [rdata]}

    def _put_dname(self, owner: str) -> None:
        owner = self._spelled(owner)
        if owner.startswith("*") or owner == "@" or self._has_below(owner) or not self._may_hold(owner):
            return
        types = self.records.setdefault(owner, {})
        types.setdefault("DNAME", [self._target()])

    def _put_cut(self, owner: str) -> None:
        owner = self._spelled(owner)
        rng = self._rng
        if "*" in owner or owner == "@" or owner in self.records or self._has_below(owner):
            return
        if not self._may_hold(owner):
            return
        servers = rng.sample(
            ["ns", f"ns.{owner}", f"a.b.{owner}", "ns1", "ns.elsewhere.", owner], rng.choice((1, 2, 3))
        )
        self.records[owner] = {"NS": servers}
        if rng.random() < 0.3:
            self.records[owner]["DS"] = ["1 8 2 " + "ab" * 32]
        for server in servers:
            if server.endswith(owner) and rng.random() < 0.9:
                glue = self.records.setdefault(server, {})
                glue["A"] = [f"192.0.2.{rng.randrange(1, 255)}"]
                if rng.random() < 0.4:
                    glue["AAAA"] = ["2001:db8::1", "2001:db8::2"]

    def _put_data(self, owner: str) -> None:
        owner = self._spelled(owner)
        if owner != "@" and not self._may_hold(owner):
            return
        rng = self._rng
        types = self.records.setdefault(owner, {})
        for rrtype in rng.sample(_RDATA_TYPES, rng.choice((1, 1, 2, 3))):
            for actual, rdata in self._rdata(rrtype):
                types.setdefault(actual, []).append(rdata)

    def _rdata(self, rrtype: str) -> list[tuple[str, str]]:
        rng = self._rng
        number = rng.randrange(1, 255)
        if rrtype == "BIG":  # doesn't fit 512 octets
            return [("TXT", f'"{mark}{"x" * rng.randrange(60, 250)}"') for mark in "abcdef"]
        if rrtype == "TWO":
            return [
                ("A", f"192.0.2.{number}"),
                ("A", f"198.51.100.{number}"),
                ("AAAA", f"2001:db8::{number}"),
            ]
        simple = {
            "A": f"192.0.2.{number}",
            "AAAA": f"2001:db8::{number:x}",
            "TXT": f'"text {number}" "and \\"more\\" \\200"',
            "MX": f"{number} {self._target()}",
            "SRV": f"0 {number} 80 {self._target()}",
            "CAA": '0 issue "ca.example"',
            "HTTPS": f"1 {self._target()} alpn=h2 port={number}",
            "SVCB": f"0 {self._target()}",
            "NAPTR": f'{number} 10 "u" "E2U+sip" "!^.*$!sip:x@example!" .',
            "TLSA": "3 1 1 " + "cd" * 32,
            "SSHFP": "4 2 " + "ef" * 32,
            "PTR": self._target(),
            "TYPE65400": f"\\# 3 0102{number:02x}",
            "SPF": '"v=spf1 -all"',
            "URI": '10 1 "https://example.com/x"',
            "RP": f"{self._target()} {self._target()}",
            "HINFO": '"CPU" "OS"',
            "LOC": "52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
            "AFSDB": f"1 {self._target()}",
        }
        return [(rrtype, simple[rrtype])]

    def questions(self, count: int) -> Iterator[tuple[str, str]]:
        """(name, type): about what is there, beside it, above it and below it, in any case."""
        rng = self._rng
        owners = [owner for owner in self.records if owner != "@"]
        for _ in range(count):
            labels = _split(rng.choice(owners)) if owners and rng.random() < 0.9 else []
            kind = rng.random()
            if labels and kind < 0.2:
                labels[0] = rng.choice(("w", "q", "a", "*", "zz"))
            elif kind < 0.4:
                labels = [rng.choice(("w", "q", "a", "*", "www")), *labels]
            elif kind < 0.48:
                labels = ["long" * 15, "q" * 63, *labels]
            elif labels and kind < 0.6:
                labels = labels[1:]
            name = ".".join([*labels, self.apex])
            if rng.random() < 0.3:
                name = "".join(rng.choice((c.upper(), c.lower())) for c in name)
            here = [t for t in self.records.get(".".join(labels) or "@", {}) if rng.random() < 0.5]
            yield name, here[0] if here else rng.choice(QTYPES)


def _split(owner: str) -> list[str]:
    """Labels of a relative name, escaped dots kept in their label."""
    return owner.replace("\\.", "\0").replace(".", "\1").replace("\0", "\\.").split("\1")
