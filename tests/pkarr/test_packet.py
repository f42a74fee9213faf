"""Signed packets: what verifies, what doesn't and why, and which of two is more recent."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_sign

from aspen.errors import PacketError
from aspen.identity import Identity
from aspen.pkarr.packet import SignedPacket, order, parse_key, signable
from aspen.pkarr.records import build_message

ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(range(1, 33)))
MESSAGE = build_message(ALICE.endpoint_id, ['_iroh TXT "relay=https://relay.example./"'])
NOW_US = 1_700_000_000_000_000
PACKET = SignedPacket.sign(ALICE, MESSAGE, NOW_US)


def signed(identity: Identity, message: bytes, timestamp_us: int = NOW_US) -> bytes:
    """A payload with a good signature, whatever it is over."""
    secret = identity.seed + identity.endpoint_id
    signature = crypto_sign(signable(timestamp_us, message), secret)[:64]
    return signature + timestamp_us.to_bytes(8, "big") + message


def test_what_was_signed_verifies() -> None:
    packet = SignedPacket.parse(ALICE.endpoint_id, PACKET.payload)
    assert packet == PACKET
    assert packet.message == MESSAGE
    assert packet.timestamp_us == NOW_US
    assert packet.payload == packet.signature + NOW_US.to_bytes(8, "big") + MESSAGE
    assert packet.z32 == ALICE.z32
    assert parse_key(packet.z32) == ALICE.endpoint_id


def test_the_signed_bytes_are_those_of_bep_44() -> None:
    assert signable(7, b"Hello World!") == b"3:seqi7e1:v12:Hello World!"


def test_the_test_vector_of_bep_44_verifies_as_a_signature() -> None:
    # BEP 44, "Test vectors", test 1 (mutable): the value there is bencoded by its own length prefix.
    key = bytes.fromhex("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548")
    signature = bytes.fromhex(
        "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff"
        "1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01"
    )
    payload = signature + (1).to_bytes(8, "big") + b"Hello World!"
    with pytest.raises(PacketError) as refused:
        SignedPacket.parse(key, payload)
    assert refused.value.code == "dns"  # the signature holds; "Hello World!" is no DNS message


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        pytest.param("size", b"", id="empty"),
        pytest.param("size", PACKET.payload[:72], id="no message"),
        pytest.param("size", signed(ALICE, bytes(1001)), id="message of 1001 bytes"),
        pytest.param("signature", bytes(64) + PACKET.payload[64:], id="no signature"),
        pytest.param("signature", bytes([PACKET.payload[0] ^ 1]) + PACKET.payload[1:], id="signature R"),
        pytest.param(
            "signature",
            PACKET.payload[:63] + bytes([PACKET.payload[63] ^ 0x20]) + PACKET.payload[64:],
            id="S",
        ),
        pytest.param(
            "signature",
            PACKET.payload[:71] + bytes([PACKET.payload[71] ^ 1]) + PACKET.payload[72:],
            id="other time",
        ),
        pytest.param("signature", PACKET.payload[:-1] + b"x", id="other message"),
        pytest.param("signature", PACKET.payload + b"\0", id="trailing byte, unsigned"),
        pytest.param("signature", signed(BOB, MESSAGE), id="another key's"),
        pytest.param("timestamp", signed(ALICE, MESSAGE, 0), id="timestamp 0"),
        pytest.param("timestamp", signed(ALICE, MESSAGE, 2**63), id="timestamp 2^63"),
        pytest.param("timestamp", signed(ALICE, MESSAGE, 2**64 - 1), id="timestamp 2^64-1"),
        pytest.param("dns", signed(ALICE, b"hello, this is not DNS at all"), id="not DNS"),
        pytest.param("dns", signed(ALICE, b"x"), id="one byte"),
        pytest.param("dns", signed(ALICE, MESSAGE + b"\0"), id="trailing byte, signed"),
        pytest.param("dns", signed(ALICE, MESSAGE[:-1]), id="cut short"),
        pytest.param("dns", signed(ALICE, bytes(12) + b"\xc0\x0c"), id="bytes after an empty message"),
        pytest.param(
            "dns",
            signed(ALICE, bytes.fromhex("000084000000000100000000c00c000100010000001e000401020304")),
            id="loop",
        ),
    ],
)
def test_each_bad_payload_names_the_check_that_failed(code: str, payload: bytes) -> None:
    with pytest.raises(PacketError) as refused:
        SignedPacket.parse(ALICE.endpoint_id, payload)
    assert refused.value.code == code
    assert str(refused.value)


@pytest.mark.parametrize(
    "public_key", [b"", bytes(31), bytes(33), bytes(32), b"\xff" * 32, b"\x01" + bytes(31)]
)
def test_what_is_no_key_is_told_from_a_bad_signature(public_key: bytes) -> None:
    with pytest.raises(PacketError) as refused:
        SignedPacket.parse(public_key, PACKET.payload)
    assert refused.value.code == "key"


@pytest.mark.parametrize(
    "text",
    ["", "y" * 51, "y" * 53, ALICE.z32.upper(), ALICE.z32[:-1], ALICE.z32[:-1] + "b", "l" * 52, "é" * 52],
)
def test_a_key_has_one_spelling(text: str) -> None:
    with pytest.raises(PacketError) as refused:
        parse_key(text)
    assert refused.value.code == "key"


def test_signing_refuses_what_could_not_be_published() -> None:
    for message, timestamp_us, code in (
        (bytes(1001), 1, "size"),
        (b"x", 1, "dns"),
        (MESSAGE, 0, "timestamp"),
    ):
        with pytest.raises(PacketError) as refused:
            SignedPacket.sign(ALICE, message, timestamp_us)
        assert refused.value.code == code


def test_a_message_of_1000_bytes_fits() -> None:
    filler = 1_000 - len(build_message(ALICE.endpoint_id, ["@ TYPE65280 \\# 0"]))
    message = build_message(ALICE.endpoint_id, [f"@ TYPE65280 \\# {filler} {'00' * filler}"])
    assert len(message) == 1_000
    assert len(SignedPacket.sign(ALICE, message, 1).payload) == 1_072


def test_more_recent_is_the_later_timestamp_then_the_larger_message() -> None:
    small = build_message(ALICE.endpoint_id, ["@ A 1.2.3.4"])
    large = build_message(ALICE.endpoint_id, ["@ A 1.2.3.5"])
    first, tie, later = (
        SignedPacket.sign(ALICE, message, timestamp_us)
        for message, timestamp_us in ((small, 255), (large, 255), (small, 256))
    )
    assert tie.more_recent_than(first)
    assert not first.more_recent_than(tie)
    assert later.more_recent_than(tie)
    assert not first.more_recent_than(first)


@given(
    st.tuples(st.integers(1, 2**63 - 1), st.binary(max_size=4)),
    st.tuples(st.integers(1, 2**63 - 1), st.binary(max_size=4)),
)
def test_order_compares_timestamp_then_message(one: tuple[int, bytes], two: tuple[int, bytes]) -> None:
    def payload(item: tuple[int, bytes]) -> bytes:
        return bytes(64) + item[0].to_bytes(8, "big") + item[1]

    assert (order(payload(one)) > order(payload(two))) == (one > two)


@given(st.data())
@settings(max_examples=300)
def test_no_mutation_verifies(data: st.DataObject) -> None:
    payload = bytearray(PACKET.payload)
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PacketError):
        SignedPacket.parse(ALICE.endpoint_id, bytes(payload))


@given(st.binary(max_size=1_100), st.binary(max_size=40))
def test_garbage_raises_nothing_else(payload: bytes, public_key: bytes) -> None:
    with pytest.raises(PacketError):
        SignedPacket.parse(public_key, payload)
