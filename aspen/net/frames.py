"""Frames on a QUIC stream: each is a length (u32, big-endian) and that many bytes.

A stream delivers bytes in order and once, cut anywhere; this puts the cuts back where they were.
Sans-IO.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aspen.errors import HandshakeError

LENGTH_BYTES: Final = 4


def encode_frames(frames: Iterable[bytes]) -> bytes:
    """All frames as one run of bytes, so that they leave together."""
    parts: list[bytes] = []
    for frame in frames:
        parts.append(len(frame).to_bytes(LENGTH_BYTES, "big"))
        parts.append(frame)
    return b"".join(parts)


class FrameReader:
    """Cuts a byte stream into frames. Holds at most one unfinished frame."""

    __slots__ = ("_buffer", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data_untrusted: bytes) -> list[bytes]:
        """The frames that `data_untrusted` completes.

        Raises `HandshakeError("malformed", …)` on a frame over the limit, before it is buffered.
        """
        if self._buffer:
            self._buffer += data_untrusted
            source: bytes | bytearray = self._buffer
        else:
            source = data_untrusted
        frames: list[bytes] = []
        at = 0
        while len(source) - at >= LENGTH_BYTES:
            start = at + LENGTH_BYTES
            length = int.from_bytes(source[at:start], "big")
            if length > self._max_bytes:
                raise HandshakeError("malformed", f"a frame of {length} bytes, over {self._max_bytes}")
            if len(source) - start < length:
                break
            frames.append(bytes(source[start : start + length]))
            at = start + length
        if source is self._buffer:
            del self._buffer[:at]
        else:
            self._buffer += source[at:]
        return frames
