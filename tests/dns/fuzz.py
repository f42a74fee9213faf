"""Mutated queries against the pipeline and its shortcut, forever or a million times.

    python tests/dns/fuzz.py --count 1000000 --seed 1 [--keep tests/dns/corpus.txt]

For every message: no exception; silence exactly for scraps and answers; never more than the client can
take; a reply that any decoder reads, and that gets no answer itself; the shortcut's reply is the
pipeline's. `--keep` writes down the first query of each kind of outcome; the suite goes through these.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import dns.message
from dns_zones import zone_from_text

from aspen.dns.fast import FastResponder
from aspen.dns.lookup import DnsSettings, View
from aspen.dns.members import ClusterNode, LiveNodes
from aspen.dns.message import validate_message
from aspen.dns.packet_zone import build_ready_answers
from aspen.dns.respond import Transport, respond, size_limit
from aspen.dns.wire import parse_edns
from aspen.dns.zone import MemoryZones, ZoneSettings
from aspen.errors import DnsWireError
from aspen.z32 import encode_key

CORPUS = Path(__file__).parent / "corpus.txt"
KEY, CUT_KEY, NODE_KEY = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
ZONE = """
a A 192.0.2.1
@ MX 10 a
*.w TXT wild
al CNAME b.al2
*.al2 CNAME a.other.
old DNAME new
up DNAME up.up
grow DNAME zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz
x.new A 192.0.2.2
sub NS ns.sub
ns.sub A 192.0.2.3
b.ent TXT "deep"
svc HTTPS 1 . alpn=h2
key CNAME _iroh.KEY.aspen.local.
"""


class Packets:
    def __init__(self) -> None:
        self._blocks = {
            KEY: self._block(
                KEY, [("_iroh", "TXT", "addr=192.0.2.1:1"), ("www", "CNAME", "KEY."), ("", "A", "192.0.2.1")]
            ),
            CUT_KEY: self._block(
                CUT_KEY, [("_a._tcp", "SRV", "0 0 1 h.KEY."), ("*", "TXT", "wild"), ("d", "DNAME", "e.KEY.")]
            ),
        }

    @staticmethod
    def _block(key: bytes, records: list[tuple[str, str, str]]) -> bytes:
        import dns.rrset

        z32 = encode_key(key)
        message = dns.message.Message(id=0)
        for owner, rrtype, rdata in records:
            name = f"{owner}.{z32}." if owner else f"{z32}."
            message.answer.append(dns.rrset.from_text(name, 30, "IN", rrtype, rdata.replace("KEY", z32)))
        return build_ready_answers(message.to_wire(), z32.encode())

    def packet_answers(self, public_key: bytes) -> bytes | None:
        return self._blocks.get(public_key)


def make_view() -> View:
    z32 = encode_key(KEY)
    big = "\n".join(f'big TXT "{mark}{"x" * 200}"' for mark in "abcdefgh")
    zones = MemoryZones(
        [
            zone_from_text("example.", ZONE.replace("KEY", z32) + big),
            zone_from_text("other.", "a CNAME al.example.", ZoneSettings(consistency="consistent")),
            zone_from_text("closed.", "a A 192.0.2.9", ZoneSettings(query_acl=("192.0.2.0/24",))),
            zone_from_text("aspen.local.", "www A 192.0.2.8"),
        ]
    )
    live = LiveNodes()
    live.replace([ClusterNode(1, NODE_KEY, (("192.0.2.7", 7300),))])
    settings = DnsSettings(origins=("aspen.local", "x.example", "."), nsid="fuzz", identity="fuzz")
    return View.build(Packets(), settings, zones, live)


def make_queries() -> list[bytes]:
    """Well-formed queries of every kind."""
    keys = [encode_key(key) for key in (KEY, CUT_KEY, NODE_KEY, bytes(32))]
    names = [".", "example.", "a.example.", "q.w.example.", "al.example.", "x.old.example.", "z.up.example."]
    names += [
        "h.sub.example.",
        "ent.example.",
        "big.example.",
        "svc.example.",
        "key.example.",
        "a.closed.",
        "com.",
    ]
    names += ["aspen.local.", "www.aspen.local.", "_aspen._udp.aspen.local.", "version.bind.", "a.other."]
    names += ["A." * 120, f"{'y' * 63}." * 3 + "grow.example."]
    for key in keys:
        names += [
            f"{sub}{key}{end}" for sub in ("", "_iroh.", "x.d.", "_a._tcp.") for end in (".aspen.local.", ".")
        ]
    queries = []
    for name in names:
        for rrtype in ("A", "TXT", "ANY", "SRV", "DS", "AXFR", "SOA"):
            for options in (
                {},
                {"use_edns": 0, "payload": 700},
                {"want_dnssec": True, "flags": 0, "options": [dns.edns.GenericOption(3, b"")]},
                {"use_edns": 0, "options": [dns.edns.GenericOption(10, b"12345678")], "payload": 4096},
            ):
                queries.append(dns.message.make_query(name, rrtype, **options).to_wire())  # type: ignore[arg-type]
    queries.append(dns.message.make_query("version.bind.", "TXT", "CH").to_wire())
    update = bytearray(queries[40])
    for opcode in (4, 5, 6, 15):
        update[2] = opcode << 3
        queries.append(bytes(update))
    return queries


def mutate(query: bytes, rng: random.Random) -> bytes:
    data = bytearray(query)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        kind = rng.randrange(8)
        at = rng.randrange(len(data)) if data else 0
        if kind == 0 and data:
            data[at] = rng.randrange(256)
        elif kind == 1 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 8)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 8))
        elif kind == 4:
            data = data[: rng.randrange(len(data) + 1)]
        elif kind == 5 and len(data) > 11:
            data[rng.randrange(2, 12)] = rng.choice((0, 1, 2, 255))
        elif kind == 6 and data:
            data[at] = 0xC0
        else:
            data += (
                b"\x00\x00\x29"
                + rng.randbytes(2)
                + bytes(4)
                + bytes((0, rng.randrange(9)))
                + rng.randbytes(4)
            )
    return bytes(data)


def check(query: bytes, view: View, fast: FastResponder) -> tuple[int, ...] | None:
    """Ask; raises if anything is wrong. What kind of outcome it was; None for silence."""
    reply = respond(query, view, Transport.UDP)
    shortcut = fast.answer(query)
    assert shortcut == (None if reply is None else reply[2:])
    silent = len(query) < 12 or query[2] & 0x80
    assert (reply is None) == bool(silent)
    if reply is None:
        return None
    try:
        edns = parse_edns(query)
    except DnsWireError:
        edns = None
    assert 12 <= len(reply) <= size_limit(edns, Transport.UDP)
    assert reply[:2] == query[:2]
    assert reply[2] & 0xF8 == 0x80 | query[2] & 0x78
    validate_message(reply)
    assert respond(reply, view, Transport.UDP) is None
    whole = respond(query, view, Transport.TCP)
    assert whole is not None
    assert len(whole) <= 65_535
    assert not (reply[2] & 2 and whole[2] & 2)
    counts = [min(int.from_bytes(reply[at : at + 2], "big"), 3) for at in range(4, 12, 2)]
    return reply[2] & 0x7E, reply[3] & 15, *counts


def run(count: int, seed: int) -> dict[tuple[int, ...], bytes]:
    """Ask `count` mutated queries; the first of each kind of outcome."""
    rng = random.Random(seed)
    view, queries = make_view(), make_queries()
    fast = FastResponder(view)
    kinds: dict[tuple[int, ...], bytes] = {}
    for number in range(count):
        query = mutate(rng.choice(queries), rng)
        try:
            kind = check(query, view, fast)
        except Exception:
            print(f"query {number} of seed {seed}: {query.hex()}", file=sys.stderr)
            raise
        if kind is not None:
            kinds.setdefault(kind, query)
    return kinds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write down one query for each kind of outcome")
    options = parser.parse_args()
    started = time.monotonic()
    kinds = run(options.count, options.seed)
    print(f"{options.count} queries, {len(kinds)} kinds of outcome, {time.monotonic() - started:.0f} s")
    if options.keep is not None:
        options.keep.write_text("".join(f"{query.hex()}\n" for _, query in sorted(kinds.items())))


if __name__ == "__main__":
    main()
