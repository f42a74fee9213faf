"""Commands that change signed packets, and what applying them says."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from aspen.errors import CommandError
from aspen.limits import PKARR_PAYLOAD_BYTES


class PacketPut(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """Store a verified pkarr packet; most recent wins, decided when applied."""

    public_key: bytes
    payload: bytes
    """Relay payload: signature (64) ‖ timestamp u64 BE µs (8) ‖ DNS message."""


PacketCommand = PacketPut


class PacketOutcome(IntEnum):
    """What became of a `PacketPut`."""

    STORED = 1
    IDENTICAL = 2
    """The very packet stored already; its last-seen time was renewed."""
    OLDER = 3
    """A more recent packet is stored; nothing changed."""


class PacketResult(msgspec.Struct, frozen=True):
    outcome: PacketOutcome
    timestamp_us: int
    """Signer's timestamp of the packet stored after the command."""


def validate_packet_command(command: PacketCommand) -> None:
    """Raises `CommandError`."""
    if len(command.public_key) != 32 or not 72 < len(command.payload) <= PKARR_PAYLOAD_BYTES:
        raise CommandError("a packet needs a 32-byte key and a payload within bounds")
