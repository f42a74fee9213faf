"""Replicated commands and their results: what stands in a Raft entry, and what applying it says.

A command is encoded as MessagePack, tagged by kind. It holds everything its application needs:
the time comes in from outside (`proposed_at_ms`, stamped by the leader), never from a clock.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from aspen.errors import CommandError, KeyValueStoreError
from aspen.limits import (
    KV_BATCH_KEYS,
    KV_KEY_BYTES,
    KV_RESERVED_PREFIX,
    KV_VALUE_BYTES,
    PKARR_PAYLOAD_BYTES,
)

DIGEST_BYTES: Final = 32


class PacketPut(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """Store a verified pkarr packet; most recent wins, decided when applied."""

    public_key: bytes
    payload: bytes
    """Relay payload: signature (64) ‖ timestamp u64 BE µs (8) ‖ DNS message."""


class KvSet(msgspec.Struct, frozen=True, tag=2, array_like=True):
    """Set keys to values, all or none. Later pairs win over earlier ones with the same key."""

    pairs: tuple[tuple[bytes, bytes], ...]


class KvDelete(msgspec.Struct, frozen=True, tag=3, array_like=True):
    """Delete keys, those that exist."""

    keys: tuple[bytes, ...]


class Checkpoint(msgspec.Struct, frozen=True, tag=64, array_like=True):
    """Have every member hash its state as it is after this entry. Changes nothing."""


class CheckpointReport(msgspec.Struct, frozen=True, tag=65, array_like=True):
    """What a member's state hashed to at a checkpoint. Changes nothing."""

    index: int
    """Of the `Checkpoint`'s log entry."""
    node_id: int
    digest: bytes


Command = PacketPut | KvSet | KvDelete | Checkpoint | CheckpointReport


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


class KvResult(msgspec.Struct, frozen=True):
    revision: int
    """The store's revision after the command."""
    changed: int
    """Keys set or deleted."""


class CheckpointResult(msgspec.Struct, frozen=True):
    index: int
    """Where in the log the checkpoint stands."""


class Rejected(msgspec.Struct, frozen=True):
    """The command was committed but its application refused it; nothing changed."""

    reason: str


Result = PacketResult | KvResult | CheckpointResult | Rejected

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Command]] = msgspec.msgpack.Decoder(Command)


def encode_command(command: Command) -> bytes:
    return _ENCODER.encode(command)


def decode_command(data_untrusted: bytes) -> Command:
    """Raises `CommandError`."""
    try:
        return _DECODER.decode(data_untrusted)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CommandError(f"not a command: {error}") from None


def validate_key(key: bytes) -> None:
    """Raises `KeyValueStoreError.EmptyKey`, `.KeyTooLarge` or `.ReservedKey`."""
    if not key:
        raise KeyValueStoreError.EmptyKey("the key is empty")
    if len(key) > KV_KEY_BYTES:
        raise KeyValueStoreError.KeyTooLarge(
            f"the key is {len(key)} bytes; at most {KV_KEY_BYTES} are allowed"
        )
    if key.startswith(KV_RESERVED_PREFIX):
        raise KeyValueStoreError.ReservedKey(f"keys under {KV_RESERVED_PREFIX.decode()} are reserved")


def validate_command(command: Command) -> None:
    """Check a command against the limits before it is proposed.

    Raises a kind of `KeyValueStoreError`, or `CommandError`.
    """
    match command:
        case PacketPut(public_key=public_key, payload=payload):
            if len(public_key) != 32 or not 72 < len(payload) <= PKARR_PAYLOAD_BYTES:
                raise CommandError("a packet needs a 32-byte key and a payload within bounds")
        case KvSet(pairs=pairs):
            _validate_batch(len(pairs))
            for key, value in pairs:
                validate_key(key)
                if len(value) > KV_VALUE_BYTES:
                    raise KeyValueStoreError.ValueTooLarge(
                        f"the value is {len(value)} bytes; at most {KV_VALUE_BYTES} are allowed"
                    )
        case KvDelete(keys=keys):
            _validate_batch(len(keys))
            for key in keys:
                validate_key(key)
        case CheckpointReport(digest=digest):
            if len(digest) != DIGEST_BYTES:
                raise CommandError(f"a state's hash is {DIGEST_BYTES} bytes")


def _validate_batch(count: int) -> None:
    if not 1 <= count <= KV_BATCH_KEYS:
        raise KeyValueStoreError.BatchTooLarge(f"{count} keys in one batch; 1 to {KV_BATCH_KEYS} are allowed")
