"""UPDATE messages (RFC 2136), made by dnspython: how they are read, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.tsig
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st
from primaries import KEY, OPEN, RecordingProposer, RememberingZone, make_primary

from aspen.dns.name import name_from_text
from aspen.dns.primary import Primary
from aspen.dns.update import parse_update, parse_update_zone
from aspen.dns.zone import ZoneSettings
from aspen.errors import CommandError, DnsWireError, NoLeader, OutcomeUnknown
from aspen.state.commands import Rejected
from aspen.state.zone_commands import (
    Change,
    ChangeKind,
    Prerequisite,
    PrerequisiteKind,
    ZoneResult,
    ZoneStatus,
    ZoneUpdate,
)

CLIENT = ("127.0.0.1", 5_353)
KEYRING = dns.tsig.Key("transfer.example.", KEY.secret, "hmac-sha256.")
WWW = name_from_text("www.zone.example.")
A = dns.rdata.from_text("IN", "A", "192.0.2.1").to_wire()


def message(**options: Any) -> dns.update.UpdateMessage:
    return dns.update.UpdateMessage("zone.example.", **options)


def read(update: dns.message.Message | bytes) -> ZoneUpdate:
    wire = update if isinstance(update, bytes) else update.to_wire()
    return parse_update(wire, parse_update_zone(wire))


# --- reading ------------------------------------------------------------------------------------


def test_the_five_prerequisites_section_2_4() -> None:
    update = message()
    update.present("www", "A")
    update.present("www")
    update.absent("www", "TXT")
    update.absent("nobody")
    update.present("WWW", "A", "192.0.2.1")
    update.present("www", dns.rdata.from_text("IN", "A", "192.0.2.2"))
    kinds = PrerequisiteKind
    assert read(update).prerequisites == (
        Prerequisite(kinds.RRSET_EXISTS, WWW, 1),
        Prerequisite(kinds.NAME_IN_USE, WWW),
        Prerequisite(kinds.RRSET_ABSENT, WWW, 16),
        Prerequisite(kinds.NAME_NOT_IN_USE, name_from_text("nobody.zone.example.")),
        Prerequisite(kinds.RRSET_IS, WWW, 1, (A, A[:3] + b"\x02")),
    )


def test_the_four_changes_in_their_order_section_2_5() -> None:
    update = message()
    update.delete("www")
    update.delete("www", "A")
    update.delete("www", "A", "192.0.2.1")
    update.add("www", 300, "A", "192.0.2.1")
    update.add("@", 300, "MX", "10 Mail.zone.example.")
    apex = name_from_text("zone.example.")
    mail = b"\x00\x0a\x04Mail\x04zone\x07example\x00"
    assert read(update).changes == (
        Change(ChangeKind.DELETE_NAME, WWW),
        Change(ChangeKind.DELETE_RRSET, WWW, 1),
        Change(ChangeKind.DELETE_RECORD, WWW, 1, 0, A),
        Change(ChangeKind.ADD, WWW, 1, 300, A),
        Change(ChangeKind.ADD, apex, 15, 300, mail),
    )


def raw(
    prerequisites: bytes = b"", updates: bytes = b"", *, zone: bytes = b"\x00\x06\x00\x01", zones: int = 1
) -> bytes:
    """A message with at most one record a section, as bytes."""
    counts = (zones, bool(prerequisites), bool(updates), 0)
    head = b"\x00\x01\x28\x00" + b"".join(int(count).to_bytes(2, "big") for count in counts)
    return head + name_from_text("zone.example.") + zone + prerequisites + updates


def record(rrtype: int, rrclass: int, ttl: int, rdata: bytes, owner: str = "www.zone.example.") -> bytes:
    fixed = rrtype.to_bytes(2, "big") + rrclass.to_bytes(2, "big") + ttl.to_bytes(4, "big")
    return name_from_text(owner) + fixed + len(rdata).to_bytes(2, "big") + rdata


IN, NONE, ANY = 1, 254, 255


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (raw(zones=0), "3.1.1: one zone"),
        (raw(zone=b"\x00\x01\x00\x01"), "3.1.1: ZTYPE is SOA"),
        (raw(prerequisites=record(1, ANY, 1, b"")), "3.2.5: TTL of a prerequisite"),
        (raw(prerequisites=record(1, IN, 1, A)), "3.2.5: TTL of a prerequisite"),
        (raw(prerequisites=record(1, ANY, 0, A)), "3.2.5: RDATA of class ANY"),
        (raw(prerequisites=record(1, NONE, 0, A)), "3.2.5: RDATA of class NONE"),
        (raw(prerequisites=record(1, 3, 0, A)), "3.2.5: another class"),
        (raw(prerequisites=record(255, IN, 0, b"")), "3.2.5: a meta type with a value"),
        (raw(prerequisites=record(252, ANY, 0, b"")), "a meta type"),
        (raw(updates=record(255, IN, 0, A)), "3.4.1.3: ANY can't be added"),
        (raw(updates=record(252, IN, 0, A)), "3.4.1.3: AXFR can't be added"),
        (raw(updates=record(41, IN, 0, b"")), "OPT can't be added"),
        (raw(updates=record(1, IN, 0, A[:3])), "RDATA of wrong form"),
        (raw(updates=record(1, ANY, 1, b"")), "3.4.1.3: TTL of a deletion"),
        (raw(updates=record(1, ANY, 0, A)), "3.4.1.3: RDATA of class ANY"),
        (raw(updates=record(253, ANY, 0, b"")), "3.4.1.3: MAILB"),
        (raw(updates=record(1, NONE, 1, A)), "3.4.1.3: TTL of a deletion"),
        (raw(updates=record(255, NONE, 0, b"")), "3.4.1.3: ANY of class NONE"),
        (raw(updates=record(1, 3, 0, A)), "3.4.1.3: another class"),
        (raw(updates=record(1, IN, 0, A)) + b"x", "bytes after the end"),
        (raw(updates=record(1, IN, 0, A))[:-1], "cut off"),
    ],
)
def test_what_the_prescan_calls_formerr(wire: bytes, why: str) -> None:
    with pytest.raises(DnsWireError) as caught:
        read(wire)
    assert caught.value.rcode == dns.rcode.FORMERR, why


@pytest.mark.parametrize(
    "wire",
    [
        raw(prerequisites=record(1, ANY, 0, b"", "www.other.example.")),
        raw(updates=record(1, IN, 0, A, "notzone.example.")),
        raw(updates=record(1, IN, 0, A, "example.")),
    ],
)
def test_names_outside_the_zone_are_notzone_section_3_2_4(wire: bytes) -> None:
    with pytest.raises(DnsWireError) as caught:
        read(wire)
    assert caught.value.rcode == dns.rcode.NOTZONE


LABEL = st.text("abcXYZ019", min_size=1, max_size=12)
RDATAS = st.sampled_from(
    [
        "A 192.0.2.7",
        "AAAA ::7",
        "MX 5 Mail.zone.example.",
        'TXT "a b" "c"',
        "SRV 1 2 3 Host",
        r"TYPE65280 \# 2 abcd",
    ]
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "delete", "one", "present", "absent", "is"]), LABEL, RDATAS),
        max_size=30,
    )
)
def test_whatever_dnspython_writes_is_read_as_meant(steps: list[tuple[str, str, str]]) -> None:
    update = message()
    changes: list[Change] = []
    wanted: list[Prerequisite] = []
    valued: dict[tuple[bytes, int], list[bytes]] = {}
    for action, label, text in steps:
        rrtype, rdata_text = text.split(" ", 1)
        rdata = dns.rdata.from_text(
            "IN", rrtype, rdata_text, origin=dns.name.from_text("zone.example."), relativize=False
        )
        owner = name_from_text(f"{label}.zone.example.".lower())
        kind, octets = int(rdata.rdtype), rdata.to_wire()
        if action == "add":
            update.add(label, 77, rdata)
            changes.append(Change(ChangeKind.ADD, owner, kind, 77, octets))
        elif action == "delete":
            update.delete(label, rdata.rdtype)
            changes.append(Change(ChangeKind.DELETE_RRSET, owner, kind))
        elif action == "one":
            update.delete(label, rdata)
            changes.append(Change(ChangeKind.DELETE_RECORD, owner, kind, rdata=octets))
        elif action == "present":
            update.present(label, rdata.rdtype)
            wanted.append(Prerequisite(PrerequisiteKind.RRSET_EXISTS, owner, kind))
        elif action == "absent":
            update.absent(label, rdata.rdtype)
            wanted.append(Prerequisite(PrerequisiteKind.RRSET_ABSENT, owner, kind))
        else:
            update.present(label, rdata)
            valued.setdefault((owner, kind), []).append(octets)
    command = read(update)
    assert command.changes == tuple(changes)
    assert command.prerequisites[: len(wanted)] == tuple(wanted)
    assert {(p.owner, p.rrtype): p.rdatas for p in command.prerequisites[len(wanted) :]} == {
        of: tuple(octets) for of, octets in valued.items()
    }


@given(st.binary(max_size=200))
def test_garbage_is_refused_by_one_exception(garbage: bytes) -> None:
    for wire in (
        garbage,
        raw()[:-4] + garbage,
        raw()[:4] + b"\x00\x01\x00\x01\x00\x01\x00\x00" + raw()[12:] + garbage,
    ):
        try:
            read(wire)
        except DnsWireError:
            pass


# --- what becomes of them -----------------------------------------------------------------------

Make = Callable[..., tuple[Primary, RecordingProposer]]


def make(
    outcome: Any = None, settings: ZoneSettings = OPEN, **options: Any
) -> tuple[Primary, RecordingProposer]:
    proposer = RecordingProposer() if outcome is None else RecordingProposer(outcome)
    return make_primary(RememberingZone("", settings=settings), proposer=proposer, **options), proposer


def adding(**options: Any) -> dns.update.UpdateMessage:
    update = message(**options)
    update.add("www", 300, "A", "192.0.2.1")
    return update


async def ask(
    primary: Primary, update: dns.message.Message, client: Any = CLIENT, **reading: Any
) -> dns.message.Message:
    reply = await primary.datagram(update.to_wire(), client)
    assert reply is not None
    parsed = dns.message.from_wire(reply, request_mac=update.mac, **reading)
    assert update.is_response(parsed)
    return parsed


async def test_an_update_is_one_command_and_its_rcode_the_answer() -> None:
    primary, proposer = make()
    reply = await ask(primary, adding())
    assert reply.rcode() == dns.rcode.NOERROR
    assert reply.opcode() == dns.opcode.UPDATE
    assert len(proposer.commands) == 1


@pytest.mark.parametrize(
    ("outcome", "rcode"),
    [
        (ZoneResult(ZoneStatus.PREREQUISITE, at=0, rcode=6, reason="in use"), dns.rcode.YXDOMAIN),
        (ZoneResult(ZoneStatus.PREREQUISITE, at=0, rcode=8, reason="no such RRset"), dns.rcode.NXRRSET),
        (ZoneResult(ZoneStatus.REFUSED, at=0, rcode=5, reason="rule"), dns.rcode.REFUSED),
        (ZoneResult(ZoneStatus.NO_ZONE, rcode=9), dns.rcode.NOTAUTH),
        (OutcomeUnknown("the leader died"), dns.rcode.SERVFAIL),
        (NoLeader("none"), dns.rcode.SERVFAIL),
        (CommandError("too many changes"), dns.rcode.REFUSED),
        (Rejected("oddly"), dns.rcode.SERVFAIL),
    ],
)
async def test_every_outcome_has_its_rcode_section_2_2(outcome: Any, rcode: int) -> None:
    primary, _ = make(outcome)
    assert (await ask(primary, adding())).rcode() == rcode


async def test_an_unknown_outcome_says_so_to_who_speaks_edns() -> None:
    primary, _ = make(OutcomeUnknown("the leader died"))
    update = adding()
    update.use_edns(0)
    (error,) = (await ask(primary, update)).options
    assert "not known" in str(error.text)


async def test_who_may_not_update_learns_nothing_section_3_3() -> None:
    primary, proposer = make(
        settings=ZoneSettings(transfer_acl=("0.0.0.0/0",), update_keys=("transfer.example",))
    )
    refused = adding()
    refused.present("secret.zone.example.")
    assert (await ask(primary, refused)).rcode() == dns.rcode.REFUSED
    assert not proposer.commands
    signed = adding()
    signed.use_tsig(KEYRING)
    reply = await ask(primary, signed, keyring=KEYRING)
    assert reply.had_tsig
    assert reply.rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("zone", ["other.example.", "www.zone.example.", "example."])
async def test_a_zone_that_is_not_ours_is_notauth_section_3_1_2(zone: str) -> None:
    primary, _ = make()
    assert (await ask(primary, dns.update.UpdateMessage(zone))).rcode() == dns.rcode.NOTAUTH


async def test_badkey_badsig_and_badtime_change_nothing() -> None:
    late = [0.0]
    primary, proposer = make(now_s=lambda: late[0])
    import time

    late[0] = time.time() + 1_000
    update = adding()
    update.use_tsig(KEYRING)
    reply = await primary.datagram(update.to_wire(), CLIENT)
    with pytest.raises(dns.tsig.PeerBadTime):
        dns.message.from_wire(reply or b"", keyring=KEYRING, request_mac=update.mac)
    for key in (dns.tsig.Key("transfer.example.", b"wrong"), dns.tsig.Key("nobody.", b"x")):
        update = adding()
        update.use_tsig(key)
        reply = await primary.datagram(update.to_wire(), CLIENT)
        with pytest.raises((dns.tsig.PeerBadSignature, dns.tsig.PeerBadKey)):
            dns.message.from_wire(reply or b"", keyring=key, request_mac=update.mac)
    assert not proposer.commands


async def test_a_retransmission_is_not_carried_out_again() -> None:
    proposer = RecordingProposer(gate=asyncio.Event())
    primary = make_primary(RememberingZone("", settings=OPEN), proposer=proposer)
    wire = adding().to_wire()
    both = [asyncio.ensure_future(primary.datagram(wire, CLIENT)) for _ in range(3)]
    await asyncio.sleep(0)
    assert proposer.gate is not None
    proposer.gate.set()
    replies = await asyncio.gather(*both)
    replies.append(await primary.datagram(wire, CLIENT))
    assert len(set(replies)) == 1
    assert len(proposer.commands) == 1
    assert await primary.datagram(wire, ("127.0.0.1", 5_354)) is not None
    assert len(proposer.commands) == 2, "another client"


async def test_a_recorded_signed_update_is_not_carried_out_for_whoever_sends_it() -> None:
    now = [0.0]
    primary, proposer = make(now_s=lambda: now[0])
    import time

    now[0] = time.time()
    update = adding()
    update.use_tsig(KEYRING)
    wire = update.to_wire()
    for client in (CLIENT, ("127.0.0.9", 1)):
        assert dns.message.from_wire(
            await primary.datagram(wire, client) or b"", keyring=KEYRING, request_mac=update.mac
        )
    assert len(proposer.commands) == 1
    now[0] += 400
    with pytest.raises(dns.tsig.PeerBadTime):
        dns.message.from_wire(
            await primary.datagram(wire, CLIENT) or b"", keyring=KEYRING, request_mac=update.mac
        )
    assert len(proposer.commands) == 1


async def test_unsigned_updates_of_one_connection_are_all_carried_out() -> None:
    primary, proposer = make()
    sent: list[bytes] = []

    async def send(reply: bytes) -> None:
        sent.append(reply)

    wire = adding(id=0).to_wire()
    for _ in range(2):
        await primary.stream(wire, CLIENT, send)
    assert len(sent) == len(proposer.commands) == 2


async def test_a_client_that_goes_away_does_not_stop_what_was_begun() -> None:
    proposer = RecordingProposer(gate=asyncio.Event())
    primary = make_primary(RememberingZone("", settings=OPEN), proposer=proposer)
    wire = adding().to_wire()
    first = asyncio.ensure_future(primary.datagram(wire, CLIENT))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert proposer.gate is not None
    proposer.gate.set()
    reply = await primary.datagram(wire, CLIENT)
    assert dns.message.from_wire(reply or b"").rcode() == dns.rcode.NOERROR
    assert len(proposer.commands) == 1


async def test_an_answer_or_half_a_header_is_met_with_silence() -> None:
    primary, _ = make()
    answer = adding()
    answer.flags |= dns.flags.QR
    assert await primary.datagram(answer.to_wire(), CLIENT) is None
    assert await primary.datagram(b"\x00\x01\x28", CLIENT) is None
