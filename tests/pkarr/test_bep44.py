"""Packets as items of the DHT (BEP 44), and the messages that carry them (BEP 3, BEP 5, BEP 43)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.errors import InputError, PacketError
from aspen.identity import Identity
from aspen.pkarr.bencode import DEPTH, decode, encode
from aspen.pkarr.bep44 import VALUE_BYTES, fits, item_fields, read_item, target
from aspen.pkarr.krpc import Answer, Contact, Query, Refusal, get_query, parse, put_query, refuse
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message

ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(range(1, 33)))
PACKET = SignedPacket.sign(ALICE, build_message(ALICE.endpoint_id, ["@ A 192.0.2.1"]), 1_700_000_000_000_000)
OWN_ID, NODE_ID = b"a" * 20, b"n" * 20

values = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=8), inner, max_size=4),
    max_leaves=12,
)


# --- bencoding (BEP 3) ------------------------------------------------------------------------


@given(values)
def test_what_was_encoded_decodes(value: object) -> None:
    assert decode(encode(value)) == value  # type: ignore[arg-type]


def test_keys_are_sorted_as_raw_strings() -> None:
    assert encode({b"b": 1, b"a": [b"x", -2]}) == b"d1:al1:xi-2ee1:bi1ee"


@given(st.binary(max_size=200))
def test_garbage_is_an_input_error_and_nothing_else(garbage: bytes) -> None:
    try:
        decode(garbage)
    except InputError:
        pass


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "no bencoded value begins at offset 0"),
        (b"x", "no bencoded value begins at offset 0"),
        (b"i1ei2e", "3 octets follow"),
        (b"i01e", "no number at offset 0"),
        (b"i-e", "no number at offset 0"),
        (b"i-0e", "no number at offset 0"),
        (b"i1", "has no end"),
        (b"i123456789012345678901234e", "has no end"),
        (b"5:abcd", "the string at offset 0 is cut short"),
        (b"99999999999999999999:a", "cut short"),
        (b"d1:a", "no bencoded value begins at offset 4"),
        (b"d1:ai1e", "no string begins at offset 7"),
        (b"di1ei2ee", "no string begins at offset 1"),
        (b"l" * (DEPTH + 1) + b"e" * (DEPTH + 1), "deep"),
    ],
)
def test_what_is_wrong_is_said(text: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        decode(text)


# --- items (BEP 44) ---------------------------------------------------------------------------


def test_the_target_is_that_of_bep_44s_test_vector() -> None:
    # BEP 44, "Test vectors", test 1 (mutable).
    key = bytes.fromhex("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548")
    assert target(key).hex() == "4a533d47ec9c7d95b1ad75f576cffc641853b750"


def test_a_packet_is_an_item_and_comes_back_whole() -> None:
    assert read_item(ALICE.endpoint_id, item_fields(PACKET)) == PACKET


def test_an_answer_without_an_item_is_none() -> None:
    assert read_item(ALICE.endpoint_id, {b"id": NODE_ID, b"token": b"t", b"seq": 5}) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({b"k": BOB.endpoint_id}, "key"),
        ({b"v": [b"not", b"octets"]}, "dns"),
        ({b"v": b"changed"}, "signature"),
        ({b"seq": PACKET.timestamp_us + 1}, "signature"),
        ({b"seq": 0}, "timestamp"),
        ({b"seq": -1}, "timestamp"),
        ({b"seq": 2**63}, "timestamp"),
        ({b"seq": b"7"}, "timestamp"),
        ({b"sig": PACKET.signature[:63]}, "signature"),
        ({b"sig": bytes(64)}, "signature"),
        ({b"sig": 1}, "signature"),
        ({b"v": bytes(1001)}, "size"),
    ],
)
def test_an_item_that_is_not_the_keys_packet_is_refused(changes: dict[bytes, object], code: str) -> None:
    with pytest.raises(PacketError) as refused:
        read_item(ALICE.endpoint_id, item_fields(PACKET) | changes)  # type: ignore[arg-type]
    assert refused.value.code == code


def test_an_item_signed_by_its_key_over_no_dns_message_is_refused() -> None:
    value = b"hello"
    signature = ALICE.sign(b"3:seqi1e1:v5:hello")
    with pytest.raises(PacketError) as refused:
        read_item(ALICE.endpoint_id, {b"k": ALICE.endpoint_id, b"sig": signature, b"seq": 1, b"v": value})
    assert refused.value.code == "dns"


def test_a_value_of_more_than_1000_bencoded_octets_is_not_for_the_dht() -> None:
    def packet_of(size: int) -> SignedPacket:
        bare = build_message(ALICE.endpoint_id, ["@ TYPE65280 \\# 0"])
        rest = size - len(bare)
        message = build_message(ALICE.endpoint_id, [f"@ TYPE65280 \\# {rest} {'00' * rest}"])
        assert len(message) == size
        return SignedPacket.sign(ALICE, message, 1)

    assert fits(packet_of(VALUE_BYTES - len("996:")))
    assert not fits(packet_of(VALUE_BYTES - len("996:") + 1))


# --- messages (BEP 5, BEP 43) -----------------------------------------------------------------


def test_queries_say_that_we_only_ask() -> None:
    get = decode(get_query(b"tttt", OWN_ID, target(ALICE.endpoint_id)))
    arguments = {b"id": OWN_ID, b"target": target(ALICE.endpoint_id)}
    assert get == {b"t": b"tttt", b"y": b"q", b"q": b"get", b"ro": 1, b"a": arguments}
    put = decode(put_query(b"tttt", OWN_ID, b"token", item_fields(PACKET)))
    assert isinstance(put, dict)
    assert put[b"a"] == {b"id": OWN_ID, b"token": b"token", **item_fields(PACKET)}
    assert parse(get_query(b"tttt", OWN_ID, bytes(20))) == Query(b"tttt")


def test_whoever_asks_us_is_refused_with_fewer_octets_than_they_sent() -> None:
    query = get_query(b"tttt", OWN_ID, bytes(20))
    refusal = refuse(Query(b"tttt"))
    assert parse(refusal) == Refusal(b"tttt", 202, "read-only")
    assert len(refusal) < len(encode({b"t": b"tttt", b"y": b"q", b"q": b"ping", b"a": {b"id": OWN_ID}}))
    assert len(refusal) < len(query)


def test_an_answer_names_nodes_token_and_item() -> None:
    compact = NODE_ID + bytes((192, 0, 2, 7)) + (6881).to_bytes(2, "big")
    port_0 = NODE_ID + bytes((192, 0, 2, 8)) + bytes(2)
    fields = {b"id": NODE_ID, b"token": b"tok", b"nodes": compact + port_0 + b"rest", **item_fields(PACKET)}
    answer = parse(encode({b"t": b"tttt", b"y": b"r", b"r": fields}))
    assert isinstance(answer, Answer)
    assert (answer.transaction, answer.node_id, answer.token) == (b"tttt", NODE_ID, b"tok")
    assert answer.contacts == (Contact(NODE_ID, ("192.0.2.7", 6881)),)
    assert read_item(ALICE.endpoint_id, answer.fields) == PACKET


def test_an_error_is_a_refusal_even_if_it_says_nothing() -> None:
    too_old = encode({b"t": b"tttt", b"y": b"e", b"e": [302, b"sequence number less than current"]})
    assert parse(too_old) == Refusal(b"tttt", 302, "sequence number less than current")
    assert parse(encode({b"t": b"tttt", b"y": b"e", b"e": b"?"})) == Refusal(b"tttt", 0, "")


@pytest.mark.parametrize(
    "message",
    [
        encode([b"a"]),
        encode({b"y": b"r", b"r": {b"id": NODE_ID}}),
        encode({b"t": 5, b"y": b"r", b"r": {b"id": NODE_ID}}),
        encode({b"t": b"t" * 33, b"y": b"q"}),
        encode({b"t": b"t", b"y": b"r"}),
        encode({b"t": b"t", b"y": b"r", b"r": {b"id": NODE_ID[:19]}}),
        encode({b"t": b"t", b"y": b"z", b"r": {b"id": NODE_ID}}),
        b"d1:t",
    ],
)
def test_what_is_no_message_is_an_input_error(message: bytes) -> None:
    with pytest.raises(InputError):
        parse(message)
