"""What comes to the node process by datagram, mutated: no exception, no answer to an answer, no answer
larger than allowed, nothing proposed but by messages that parse."""

from __future__ import annotations

import random

import dns.message
import dns.opcode
import dns.update
from primaries import KEY, OPEN, RecordingProposer, RememberingZone, make_primary

from aspen.dns.message import validate_message
from aspen.dns.tsig import Signer
from aspen.limits import DNS_UDP_EDNS_BYTES

CLIENT = ("127.0.0.1", 5_353)
ROUNDS = 6_000
NOW_S = 1_700_000_000


def corpus() -> list[bytes]:
    update = dns.update.UpdateMessage("zone.example.", id=1)
    update.present("www", "A")
    update.absent("nobody")
    update.add("www", 300, "MX", "5 mail")
    update.delete("old", "A", "192.0.2.1")
    notify = dns.message.make_query("zone.example.", "SOA", id=2)
    notify.set_opcode(dns.opcode.NOTIFY)
    ixfr = dns.message.make_query("zone.example.", "IXFR", id=3, use_edns=0)
    ixfr.authority.append(dns.rrset.from_text("zone.example.", 0, "IN", "SOA", ". . 1 0 0 0 0"))
    axfr = dns.message.make_query("zone.example.", "AXFR", id=4)
    plain = dns.message.make_query("ns1.zone.example.", "A", id=5, use_edns=0, want_dnssec=True)
    unsigned = [message.to_wire() for message in (update, notify, ixfr, axfr, plain)]
    return unsigned + [Signer(KEY).sign(wire, NOW_S) for wire in unsigned]


def mutated(rng: random.Random, message: bytes) -> bytes:
    octets = bytearray(message)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(octets) or 1)
        match rng.randrange(5):
            case 0 if octets:
                octets[at] ^= 1 << rng.randrange(8)
            case 1 if octets:
                octets[at] = rng.choice((0, 1, 0x3F, 0x40, 0xC0, 0xFA, 0xFB, 0xFE, 0xFF))
            case 2:
                del octets[at:]
            case 3:
                octets[at:at] = rng.randbytes(rng.randrange(1, 12))
            case _:
                del octets[at : at + rng.randrange(1, 5)]
    return bytes(octets)


async def test_mutated_messages_are_answered_or_not_but_never_wrongly() -> None:
    rng = random.Random(20_260)
    proposer = RecordingProposer()
    primary = make_primary(RememberingZone("", settings=OPEN), proposer=proposer, now_s=lambda: NOW_S)
    messages = corpus()
    answered = 0
    for _ in range(ROUNDS):
        message = mutated(rng, rng.choice(messages))
        before = len(proposer.commands)
        reply = await primary.datagram(message, CLIENT)
        if len(message) < 12 or message[2] & 0x80:
            assert reply is None
            assert len(proposer.commands) == before
            continue
        assert reply is not None, message.hex()
        answered += 1
        assert len(reply) <= DNS_UDP_EDNS_BYTES
        assert reply[:2] == message[:2]
        assert reply[2] & 0x80
        assert reply[2] & 0x78 == message[2] & 0x78
        validate_message(reply)
    assert answered > ROUNDS // 2
    assert proposer.commands, "some updates came through whole"
