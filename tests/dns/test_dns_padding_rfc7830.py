"""Padding of encrypted answers: RFC 7830 (the option), RFC 8467 (the policy)."""

from __future__ import annotations

from typing import Any

import dns.edns
import dns.message
import dns.tsigkeyring
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.dns.padding import option_codes, padded
from aspen.dns.stream import Answers, Padding


def query(name: str, *, pad: int | None = None, edns: bool = True) -> dns.message.Message:
    message = dns.message.make_query(name, "TXT", use_edns=0 if edns else False)
    if pad is not None:
        message.use_edns(0, options=[dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(pad))])
    return message


async def test_rfc8467_4_1_answers_fill_blocks_of_468_octets(serve: Any, z32: str) -> None:
    served = serve("\n".join(f'big 30 TXT "{number}{"x" * 200}"' for number in range(4)))
    answers = Answers(served.view, Padding.ASKED)
    for name, size in ((f"nope.{z32}.aspen.local", 468), (f"big.{z32}.aspen.local", 3 * 468)):
        question = query(name, pad=0)
        reply = answers.answer(question.to_wire())
        assert reply is not None
        assert len(reply) == size
        message = dns.message.from_wire(reply)
        assert question.is_response(message)
        assert [option.otype for option in message.options][-1] == dns.edns.OptionType.PADDING


async def test_rfc7830_4_who_does_not_pad_gets_no_padding(serve: Any, z32: str) -> None:
    answers = Answers(serve("@ 30 TXT x").view, Padding.ASKED)
    for question in (query(f"{z32}.aspen.local"), query(f"{z32}.aspen.local", edns=False)):
        reply = answers.answer(question.to_wire())
        assert reply is not None
        assert len(reply) < 468
        assert not dns.message.from_wire(reply).options


async def test_rfc9250_5_4_over_quic_all_who_speak_edns_get_it(serve: Any, z32: str) -> None:
    answers = Answers(serve("@ 30 TXT x").view, Padding.EDNS)
    for question, size in (
        (query(f"{z32}.aspen.local"), 468),
        (query(f"{z32}.aspen.local", edns=False), None),
    ):
        reply = answers.answer(question.to_wire())
        assert reply is not None
        assert (len(reply) == size) == (size is not None)


async def test_in_the_clear_nobody_does(serve: Any, z32: str) -> None:
    reply = Answers(serve("@ 30 TXT x").view).answer(query(f"{z32}.aspen.local", pad=100).to_wire())
    assert reply is not None
    assert len(reply) < 468


def test_a_signature_is_left_at_the_end() -> None:
    keyring = dns.tsigkeyring.from_text({"key.": "c2VjcmV0c2VjcmV0c2VjcmV0"})
    message = query("a.example", pad=0)
    message.use_tsig(keyring, "key.")
    wire = message.to_wire()
    assert padded(wire) == wire


@pytest.mark.parametrize("size", [465, 467, 468, 469, 65_000, 65_531, 65_532, 65_533, 65_535])
def test_no_answer_grows_over_what_fits(size: int) -> None:
    message = query("a.example")
    filler = size - len(message.to_wire()) - 4
    message.use_edns(0, options=[dns.edns.GenericOption(65_001, bytes(filler))])
    wire = message.to_wire(max_size=65_535)
    assert len(wire) == size
    result = padded(wire)
    assert len(result) <= 65_535
    assert len(result) % 468 == 0 or len(result) == 65_535 or result == wire
    assert dns.message.from_wire(result).options[0].otype == 65_001


@given(st.binary(max_size=80))
def test_garbage_has_no_options_and_no_padding(garbage: bytes) -> None:
    assert option_codes(garbage) is None or isinstance(option_codes(garbage), frozenset)
