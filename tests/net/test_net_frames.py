"""Frames on a stream: whatever the cuts, the same frames come out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.errors import HandshakeError
from aspen.net.frames import FrameReader, encode_frames


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 30), min_size=1))
def test_frames_survive_any_cuts(frames, sizes):
    data = encode_frames(frames)
    reader = FrameReader(40)
    got, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        got += reader.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert got == frames


def test_a_frame_over_the_limit_is_refused_on_sight_of_its_length():
    reader = FrameReader(10)
    assert reader.feed(encode_frames([b"0123456789"])) == [b"0123456789"]
    with pytest.raises(HandshakeError) as caught:
        reader.feed((11).to_bytes(4, "big"))
    assert caught.value.code == "malformed"
