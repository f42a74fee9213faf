"""Replicated commands and their results: what stands in a Raft entry, and what applying it says.

A command is encoded as MessagePack, tagged by kind. It holds everything its application needs:
the time comes in from outside (`proposed_at_ms`, stamped by the leader), never from a clock.
Each kind of state has its commands in a module of its own; here they come together. Tags are
never used twice, and what stands behind one never changes (`state.level`): packets 1 and 10 to 19, keys
2, 3 and 20 to 39, zones 40 to 59, settings 60 to 63, the cluster's own 64 to 79.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import CommandError, StorageError
from aspen.state.kv_checks import validate_kv_command
from aspen.state.kv_commands import KvCommand, KvCommandResult
from aspen.state.packet_commands import ExpireResult, PacketCommand, PacketResult, validate_packet_command
from aspen.state.settings import SettingCommand, SettingResult, validate_setting_command
from aspen.state.zone_commands import ZoneCommand, ZoneResult, validate_zone_command

DIGEST_BYTES: Final = 32


class Checkpoint(msgspec.Struct, frozen=True, tag=64, array_like=True, forbid_unknown_fields=True):
    """Have every member hash its state as it is after this entry. Changes nothing."""


class CheckpointReport(msgspec.Struct, frozen=True, tag=65, array_like=True, forbid_unknown_fields=True):
    """What a member's state hashed to at a checkpoint. Changes nothing."""

    index: int
    """Of the `Checkpoint`'s log entry."""
    node_id: int
    digest: bytes


CheckpointCommand = Checkpoint | CheckpointReport
Command = PacketCommand | KvCommand | SettingCommand | ZoneCommand | CheckpointCommand


class CheckpointResult(msgspec.Struct, frozen=True):
    index: int
    """Where in the log the checkpoint stands."""


class Rejected(msgspec.Struct, frozen=True):
    """The command was committed but its application refused it; nothing changed."""

    reason: str


Result = (
    PacketResult | ExpireResult | KvCommandResult | SettingResult | ZoneResult | CheckpointResult | Rejected
)

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Command]] = msgspec.msgpack.Decoder(Command)
_BUILT: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode_command(command: Command) -> bytes:
    return _ENCODER.encode(command)


def decode_command(data_untrusted: bytes) -> Command:
    """Raises `CommandError`; `StorageError` for what looks like a command, and is of no kind known here:
    a newer version's, which other members may well be able to apply (`state.level`)."""
    try:
        return _DECODER.decode(data_untrusted)
    except UnicodeDecodeError as error:
        # Only of a kind known here is a field known to be text: every member finds it wrong alike.
        raise CommandError(f"not a command: {error}") from None
    except UNDECODABLE as error:
        if (tag := _tag(data_untrusted)) is not None:
            raise StorageError(
                f"a command (kind {tag}) that this version of Aspen doesn't know: {error}"
            ) from None
        raise CommandError(f"not a command: {error}") from None


def _tag(data_untrusted: bytes) -> int | None:
    """The kind, if this is built as a command is. What follows it isn't looked into: a newer version may."""
    try:
        found = _BUILT.decode(data_untrusted)
        return msgspec.msgpack.decode(found[0], type=int) if found else None
    except UNDECODABLE:
        return None


def _validate_checkpoint_command(command: CheckpointCommand) -> None:
    if isinstance(command, CheckpointReport) and len(command.digest) != DIGEST_BYTES:
        raise CommandError(f"a state's hash is {DIGEST_BYTES} bytes")


_VALIDATORS: Final[dict[type, Callable[[Any], None]]] = {
    kind: validate
    for kinds, validate in (
        (PacketCommand, validate_packet_command),
        (KvCommand, validate_kv_command),
        (SettingCommand, validate_setting_command),
        (ZoneCommand, validate_zone_command),
        (CheckpointCommand, _validate_checkpoint_command),
    )
    for kind in get_args(kinds) or (kinds,)
}


def validate_command(command: Command) -> None:
    """Check a command against the limits before it is proposed.

    Raises a kind of `KeyValueStoreError`, or `CommandError`.
    """
    _VALIDATORS[type(command)](command)
