"""Tickets: each kind survives its text, and each way to be wrong is told by name."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.discovery.ticket import SignedTicket, Ticket, TicketNode, parse_ticket
from aspen.errors import TicketError
from aspen.identity import Identity, verify
from aspen.limits import TICKET_CHARS, TICKET_LIFE_MAX_S, TICKET_LIFE_S, TICKET_NODES, TICKET_SKEW_S

ISSUER = Identity.from_seed(b"i" * 32)
NOW_S = 1_700_000_000

hosts = st.sampled_from(["10.0.0.1", "node.example", "2001:db8::1", "x" * 255])
nodes = st.lists(
    st.builds(
        TicketNode,
        st.binary(min_size=32, max_size=32),
        st.lists(st.tuples(hosts, st.integers(1, 65_535)), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=TICKET_NODES,
    unique_by=lambda node: node.endpoint_id,
).map(lambda found: tuple(sorted(found, key=lambda node: node.endpoint_id)))
tickets = st.builds(Ticket, st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16), nodes)

PLAIN = Ticket(b"t" * 32, b"c" * 16, (TicketNode(ISSUER.endpoint_id, (("10.0.0.1", 7_300),)),))


def signed(ticket: Ticket = PLAIN, now_s: int = NOW_S) -> SignedTicket:
    return ticket.sign(ISSUER.endpoint_id, ISSUER.sign, now_s, b"n" * 16)


@given(tickets)
def test_a_ticket_survives_its_text(ticket: Ticket) -> None:
    assert parse_ticket(ticket.encode()) == ticket


@given(tickets)
def test_a_signed_ticket_survives_its_text_and_holds(ticket: Ticket) -> None:
    read = parse_ticket(signed(ticket).encode())
    assert isinstance(read, SignedTicket)
    assert read == signed(ticket)
    read.check(verify, NOW_S)


def test_line_breaks_and_capitals_of_those_who_paste_do_no_harm() -> None:
    text = PLAIN.encode()
    assert parse_ticket(f" {text[:20]}\n  {text[20:].upper()}\n") == PLAIN


@pytest.mark.parametrize(
    ("at_s", "code"),
    [
        (NOW_S + TICKET_LIFE_S + TICKET_SKEW_S, None),
        (NOW_S + TICKET_LIFE_S + TICKET_SKEW_S + 1, "expired"),
        (NOW_S - TICKET_SKEW_S, None),
        (NOW_S - TICKET_SKEW_S - 1, "not_yet"),
    ],
)
def test_a_signed_ticket_holds_for_its_time(at_s: int, code: str | None) -> None:
    if code is None:
        signed().check(verify, at_s)
        return
    with pytest.raises(TicketError) as caught:
        signed().check(verify, at_s)
    assert caught.value.code == code


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_never_let_in(position: int, bit: int) -> None:
    text = signed().encode()
    body = text.removeprefix("aspensigned").upper()
    octets = bytearray(base64.b32decode(body + "=" * (-len(body) % 8)))
    octets[position % len(octets)] ^= 1 << bit
    forged = "aspensigned" + base64.b32encode(bytes(octets)).decode().lower().rstrip("=")

    def enter() -> None:
        read = parse_ticket(forged)
        assert isinstance(read, SignedTicket)
        read.check(verify, NOW_S)

    with pytest.raises(TicketError) as caught:
        enter()
    assert caught.value.code in ("forged", "malformed")


def test_an_issuer_can_not_stretch_its_life() -> None:
    stretched = SignedTicket(PLAIN, NOW_S, NOW_S + TICKET_LIFE_MAX_S + 1, b"n" * 16, ISSUER.endpoint_id, b"")
    stretched = SignedTicket(
        PLAIN,
        stretched.issued_at_s,
        stretched.expires_at_s,
        b"n" * 16,
        ISSUER.endpoint_id,
        ISSUER.sign(stretched._signed()),
    )
    with pytest.raises(TicketError, match="longer life"):
        stretched.check(verify, NOW_S)


def test_its_issuer_says_how_long_it_lives() -> None:
    brief = PLAIN.sign(ISSUER.endpoint_id, ISSUER.sign, NOW_S, b"n" * 16, life_s=60)
    brief.check(verify, NOW_S + 60 + TICKET_SKEW_S)
    with pytest.raises(TicketError, match="expired"):
        brief.check(verify, NOW_S + 61 + TICKET_SKEW_S)
    for life_s in (0, TICKET_LIFE_MAX_S + 1):
        with pytest.raises(TicketError, match="a ticket lives"):
            PLAIN.sign(ISSUER.endpoint_id, ISSUER.sign, NOW_S, b"n" * 16, life_s=life_s)


def _text(text: str, end: int) -> str:
    """A ticket's text with its octets cut."""
    body = text.removeprefix("aspen").upper()
    octets = base64.b32decode(body + "=" * (-len(body) % 8))[:end]
    return "aspen" + base64.b32encode(octets).decode().lower().rstrip("=")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with"),
        ("consul-join-token", "begins with"),
        ("aspen", "ends inside its version"),
        ("aspen!!!", "isn't base32"),
        (_text(PLAIN.encode(), -2), "cut off"),
        (PLAIN.encode() + "aaaaaaaa", "too many"),
        (PLAIN.encode()[:-1] + "z", "copied whole"),
        ("aspen" + base64.b32encode(b"\x07" + b"x" * 60).decode().lower().rstrip("="), "version 7"),
        ("aspen" + "a" * TICKET_CHARS, "at most"),
        ("aspensigned" + PLAIN.encode()[5:], "ends inside the ticket's term"),
    ],
)
def test_what_is_no_ticket_is_told_why(text: str, reason: str) -> None:
    with pytest.raises(TicketError, match=reason) as caught:
        parse_ticket(text)
    assert caught.value.code == "malformed"


@given(
    st.text(max_size=200)
    | st.binary(max_size=300).map(lambda octets: "aspen" + base64.b32encode(octets).decode())
)
def test_no_text_is_too_odd(text: str) -> None:
    try:
        parse_ticket(text)
    except TicketError:
        pass
