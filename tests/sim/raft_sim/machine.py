"""The replicated state machine of the simulated cluster: a few registers, and two hashes of them.

A command is a write or a compare-and-swap of one register, and bears a request id that is used
once in a whole run, so that every value written is unique. `digest` covers what was applied, in
order; `sum` covers what the registers hold now. Equal applied index must mean equal both.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

_COMMAND: Final = struct.Struct(">IBBII")
_SUM_MASK: Final = 2**64 - 1

WRITE: Final = 1
COMPARE_AND_SWAP: Final = 2

OnResult = Callable[[int, int], None]
"""(request id, the value found) of each command that is applied."""


class Image(NamedTuple):
    """The whole state, as a snapshot carries it."""

    digest: int
    registers: dict[int, int]


_IMAGE: Final = msgspec.msgpack.Decoder(Image)


def encode_command(request_id: int, kind: int, key: int, value: int, expected: int, padding: int) -> bytes:
    """`padding` bytes more make it larger, for limits that count bytes."""
    return _COMMAND.pack(request_id, kind, key, value, expected) + bytes(padding)


def request_id_of(data: bytes) -> int:
    request_id: int = _COMMAND.unpack_from(data)[0]
    return request_id


def _mixed(key: int, value: int) -> int:
    return ((key + 1) * 0x9E3779B97F4A7C15 ^ value * 0xC2B2AE3D27D4EB4F) * 0x165667B19E3779F9


class Machine:
    """Registers of integers; each is 0 until it is written."""

    __slots__ = ("digest", "registers", "sum")

    def __init__(self) -> None:
        self.registers: dict[int, int] = {}
        self.digest = 0
        self.sum = 0

    @property
    def state_hash(self) -> tuple[int, int]:
        return self.digest, self.sum

    def apply(self, data: bytes) -> tuple[int, int]:
        """Apply one command: its request id, and the value found before."""
        request_id, kind, key, value, expected = _COMMAND.unpack_from(data)
        found = self.registers.get(key, 0)
        if kind == WRITE or found == expected:
            self.registers[key] = value
            self.sum = (self.sum - _mixed(key, found) + _mixed(key, value)) & _SUM_MASK
        self.digest = crc32(data, self.digest)
        return request_id, found

    def save(self) -> bytes:
        """The state as bytes, with a checksum before them."""
        body = msgspec.msgpack.encode(Image(self.digest, dict(sorted(self.registers.items()))))
        return crc32(body).to_bytes(4, "big") + body

    def restore(self, data: bytes) -> None:
        """Replace the state. Raises `ValueError` if the checksum says that `data` is damaged."""
        body = data[4:]
        if crc32(body).to_bytes(4, "big") != data[:4]:
            raise ValueError("the snapshot's checksum does not match")
        image = _IMAGE.decode(body)
        self.digest, self.registers = image.digest, image.registers
        self.sum = 0
        for key, value in self.registers.items():
            self.sum = (self.sum - _mixed(key, 0) + _mixed(key, value)) & _SUM_MASK
