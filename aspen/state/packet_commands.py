"""Commands that change signed packets, and what applying them says."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from aspen.errors import CommandError
from aspen.limits import PKARR_EXPIRE_BATCH, PKARR_PAYLOAD_BYTES

_KEY_BYTES = 32


class PacketPut(msgspec.Struct, frozen=True, tag=1, array_like=True, forbid_unknown_fields=True):
    """Store a verified pkarr packet; most recent wins, decided when applied.

    A packet without answers unpublishes its key: it becomes a tombstone.
    """

    public_key: bytes
    payload: bytes
    """Relay payload: signature (64) ‖ timestamp u64 BE µs (8) ‖ DNS message."""
    unless_after_us: int | None = None
    """Only if no packet with a higher timestamp than this is stored: compare and swap."""


class PacketDelete(msgspec.Struct, frozen=True, tag=10, array_like=True, forbid_unknown_fields=True):
    """Take a key's packet away, without its signature: an operator's deed.

    A tombstone stays and keeps off every packet that isn't newer than the one deleted.
    """

    public_key: bytes


class PacketsExpire(msgspec.Struct, frozen=True, tag=11, array_like=True, forbid_unknown_fields=True):
    """Remove packets and tombstones last seen before these times, the oldest first.

    Their ages are looked at when this is applied: what has been seen again meanwhile stays.
    """

    packets_before_ms: int
    tombstones_before_ms: int
    limit: int = PKARR_EXPIRE_BATCH
    """At most so many of both together."""


PacketCommand = PacketPut | PacketDelete | PacketsExpire


class PacketOutcome(IntEnum):
    """What became of a `PacketPut` or `PacketDelete`."""

    STORED = 1
    IDENTICAL = 2
    """The very packet stored already; its last-seen time was renewed."""
    OLDER = 3
    """A more recent packet, or the tombstone of one, is stored; nothing changed."""
    DELETED = 4
    ABSENT = 5
    """There was nothing to delete."""
    MODIFIED = 6
    """What is stored is later than the condition allows; nothing changed."""


class PacketResult(msgspec.Struct, frozen=True):
    outcome: PacketOutcome
    timestamp_us: int
    """Signer's timestamp of the packet stored after the command."""


class ExpireResult(msgspec.Struct, frozen=True):
    removed: int
    more: bool
    """Whether the limit was reached."""


def validate_packet_command(command: PacketCommand) -> None:
    """Raises `CommandError`."""
    match command:
        case PacketPut():
            if len(command.public_key) != _KEY_BYTES or not 72 < len(command.payload) <= PKARR_PAYLOAD_BYTES:
                raise CommandError("a packet needs a 32-byte key and a payload within bounds")
        case PacketDelete():
            if len(command.public_key) != _KEY_BYTES:
                raise CommandError("a public key is 32 bytes")
        case PacketsExpire():
            if not 1 <= command.limit <= PKARR_EXPIRE_BATCH:
                raise CommandError(f"1 to {PKARR_EXPIRE_BATCH} packets expire at a time")
