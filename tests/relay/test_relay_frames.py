"""What a relay and its clients say to each other, as bytes; and the heart of a relay without any network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.errors import ConfigError, RelayError
from aspen.identity import Identity
from aspen.limits import RELAY_DATAGRAM_BYTES, RELAY_FRAME_BYTES
from aspen.ratelimit import Rate
from aspen.relay.access import parse_relay_url
from aspen.relay.frames import (
    Challenge,
    Datagram,
    Frame,
    Gone,
    Observed,
    Proof,
    Refused,
    Welcome,
    decode_frame,
    encode_frame,
)
from aspen.relay.hub import DroppingQueue, Hub, RelayLimits

_KEY = st.binary(min_size=32, max_size=32)
_NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-:[]", max_size=261)
FRAMES = st.one_of(
    st.builds(Challenge, _KEY, st.booleans()),
    st.builds(Proof, _KEY, st.binary(min_size=64, max_size=64), _KEY, _NAME),
    st.builds(Welcome, st.integers(0, 65_535), st.binary(min_size=16, max_size=16)),
    st.builds(Observed, st.ip_addresses().map(str), st.integers(0, 65_535)),
    st.builds(Datagram, _KEY, st.binary(min_size=1, max_size=RELAY_DATAGRAM_BYTES)),
    st.builds(Gone, _KEY),
    st.builds(Refused, st.text("abcdefghij_", max_size=32), st.text(max_size=200)),
)


@given(FRAMES)
def test_what_is_encoded_decodes_to_the_same(frame: Frame) -> None:
    encoded = encode_frame(frame)
    assert len(encoded) <= RELAY_FRAME_BYTES
    assert decode_frame(encoded) == frame


@given(st.binary(max_size=RELAY_FRAME_BYTES + 10))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    try:
        frame = decode_frame(data)
    except RelayError:
        return
    assert decode_frame(encode_frame(frame)) == frame


@given(FRAMES, st.data())
def test_a_frame_that_is_cut_off_is_never_another_kind(frame: Frame, data: st.DataObject) -> None:
    encoded = encode_frame(frame)
    cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    try:
        assert type(decode_frame(cut)) is type(frame)
    except RelayError:
        pass


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "malformed"),
        (b"\x00", "malformed"),
        (b"\x09abc", "malformed"),
        (b"\x04" + bytes(32), "malformed"),  # a datagram of nothing
        (b"\x04" + bytes(32 + RELAY_DATAGRAM_BYTES + 1), "too_large"),
        (bytes(RELAY_FRAME_BYTES + 1), "too_large"),
        (b"\x01\x02" + bytes(33), "version"),
        (b"\x03\x00", "version"),
        (b"\x06\x09short", "malformed"),
    ],
)
def test_refusals_say_what_is_wrong(data: bytes, code: str) -> None:
    with pytest.raises(RelayError) as caught:
        decode_frame(data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "websocket", "name"),
    [
        ("https://relay.example.com", "wss://relay.example.com/relay", "relay.example.com"),
        ("https://Relay.Example.com:443/", "wss://relay.example.com/relay", "relay.example.com"),
        ("http://192.0.2.1:8080", "ws://192.0.2.1:8080/relay", "192.0.2.1:8080"),
        ("wss://relay.example.com/eu/relay", "wss://relay.example.com/eu/relay", "relay.example.com"),
        ("http://[2001:db8::1]:80", "ws://[2001:db8::1]/relay", "[2001:db8::1]"),
    ],
)
def test_the_url_of_a_relay(text: str, websocket: str, name: str) -> None:
    url = parse_relay_url("iroh.relay_url", text)
    assert (url.websocket, url.name) == (websocket, name)


@pytest.mark.parametrize(
    "text", ["", "relay.example.com", "ftp://a", "https://", "https://u:p@a", "https://a?b", "https://a:x"]
)
def test_what_is_not_the_url_of_a_relay(text: str) -> None:
    with pytest.raises(ConfigError, match=r"iroh\.relay_url"):
        parse_relay_url("iroh.relay_url", text)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(60, 200))
def test_a_queue_keeps_the_newest_that_fit(sizes: list[int], max_bytes: int) -> None:
    queue = DroppingQueue(max_bytes)
    for number, size in enumerate(sizes):
        queue.push(bytes((number,)) * size)
    kept = [frame for frame in iter(queue.pop, None)]
    assert sum(map(len, kept)) <= max_bytes
    expected = [bytes((number,)) * size for number, size in enumerate(sizes)]
    assert kept == expected[len(expected) - len(kept) :]
    assert queue.dropped == len(sizes) - len(kept)


def _key(number: int) -> bytes:
    return Identity.from_seed(bytes((number,)) * 32).endpoint_id


def test_a_client_may_send_at_its_rate_and_no_more() -> None:
    hub = Hub(RelayLimits(datagrams=Rate(10, 5), bytes_=Rate(1_000, 2_000)))
    one, two = hub.enter(_key(1), lambda: None), hub.enter(_key(2), lambda: None)
    for _ in range(8):
        hub.forward(one, Datagram(two.endpoint_id, b"x"), now_s=0.0)
    assert (len(two.queue), hub.dropped["rate"]) == (5, 3)
    hub.forward(one, Datagram(two.endpoint_id, b"x"), now_s=0.1)  # one more token
    assert len(two.queue) == 6
    hub.forward(two, Datagram(one.endpoint_id, b"x"), now_s=0.1)  # another's bucket
    assert len(one.queue) == 1
    for _ in range(3):
        hub.forward(one, Datagram(two.endpoint_id, bytes(1_000)), now_s=9.0)  # bytes are counted too
    assert len(two.queue) == 8


def test_who_is_not_there_is_reported_to_the_sender() -> None:
    hub = Hub(RelayLimits())
    woken: list[int] = []
    one = hub.enter(_key(1), lambda: woken.append(1))
    hub.forward(one, Datagram(_key(9), b"x"), now_s=0.0)
    frame = one.queue.pop()
    assert frame is not None
    assert decode_frame(frame) == Gone(_key(9))
    assert (woken, hub.dropped["gone"], hub.forwarded) == ([1], 1, 0)


def test_a_newer_connection_with_the_same_key_takes_the_place() -> None:
    hub = Hub(RelayLimits(clients=1))
    older = hub.enter(_key(1), lambda: None)
    newer = hub.enter(_key(1), lambda: None)
    assert older.ended is not None
    assert older.ended.code == "replaced"
    hub.leave(older)
    assert hub.sessions == [newer]
    with pytest.raises(RelayError) as caught:
        hub.enter(_key(2), lambda: None)
    assert caught.value.code == "full"


def test_a_refusal_may_quote_what_is_no_text() -> None:
    refused = decode_frame(encode_frame(Refused("wrong_name", "this is caf\udce9")))
    assert refused == Refused("wrong_name", "this is caf?")
