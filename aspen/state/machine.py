"""The replicated state machine: the one place where commands change state.

`apply` is deterministic: what it writes depends on the state, the log index, the leader's
time stamp and the command, never on a clock, randomness or iteration order. Nodes that applied
the same index therefore hold the same state, byte for byte.

Leaders' clocks may disagree. The machine keeps the highest time it has seen and gives commands
that time or later, so state never sees time go back when leadership moves.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from aspen.errors import CommandError, KeyValueStoreError, StorageError
from aspen.limits import DNS_CHANGES, PROPOSAL_REASON_CHARS
from aspen.state.apply import ApplyContext
from aspen.state.checkpoint import Checkpoints
from aspen.state.commands import (
    Checkpoint,
    CheckpointResult,
    Rejected,
    Result,
    decode_command,
    encode_command,
    validate_command,
)
from aspen.state.kv import KV_HANDLERS
from aspen.state.packet_commands import PacketDelete, PacketPut, PacketsExpire
from aspen.state.packets import apply_packet_delete, apply_packet_put, apply_packets_expire
from aspen.state.settings import SettingDelete, SettingPut, apply_setting_delete, apply_setting_put
from aspen.state.store import TableStore, Txn
from aspen.state.zone_apply import (
    apply_zone_abandon,
    apply_zone_activate,
    apply_zone_collect,
    apply_zone_configure,
    apply_zone_create,
    apply_zone_delete,
    apply_zone_stage,
)
from aspen.state.zone_commands import (
    ZoneAbandon,
    ZoneActivate,
    ZoneCollect,
    ZoneConfigure,
    ZoneCreate,
    ZoneDelete,
    ZoneStage,
    ZoneUpdate,
)
from aspen.state.zone_update import apply_zone_update

_U64: Final = struct.Struct(">Q")
_TIME: Final = b"time_ms"
"""In table `machine`."""


_HANDLERS: Final[dict[type, Callable[[ApplyContext, Any], Result]]] = {
    PacketPut: apply_packet_put,
    PacketDelete: apply_packet_delete,
    PacketsExpire: apply_packets_expire,
    **KV_HANDLERS,
    SettingPut: apply_setting_put,
    SettingDelete: apply_setting_delete,
    ZoneCreate: apply_zone_create,
    ZoneConfigure: apply_zone_configure,
    ZoneDelete: apply_zone_delete,
    ZoneUpdate: apply_zone_update,
    ZoneStage: apply_zone_stage,
    ZoneActivate: apply_zone_activate,
    ZoneAbandon: apply_zone_abandon,
    ZoneCollect: apply_zone_collect,
}
"""All kinds of commands but those of checkpoints, which change nothing."""


class Machine:
    """Applies commands within the caller's transaction. Used by one thread at a time."""

    checkpoint_command: Final = encode_command(Checkpoint())

    def __init__(self, store: TableStore, checkpoints: Checkpoints | None = None) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._time_ms = 0
        self._time_stored_ms = 0
        self._dns_changed = False
        self._changed_packets: set[bytes] = set()
        self._moved = False

    @property
    def time_ms(self) -> int:
        """The highest time that a leader has given a command."""
        return self._time_ms

    def begin(self, txn: Txn) -> None:
        """Take up the state of `txn`; call first in every transaction that applies."""
        value = txn.get(_TIME, db=self._store.tables["machine"])
        self._time_ms = self._time_stored_ms = 0 if value is None else _U64.unpack(value)[0]
        self._moved = False

    @staticmethod
    def refuses(data: bytes) -> str | None:
        """Why this command may not be proposed: it would be rejected in any state, or stop members."""
        try:
            validate_command(decode_command(data))
        except (CommandError, KeyValueStoreError, StorageError) as error:
            return str(error)[:PROPOSAL_REASON_CHARS]
        return None

    def apply(self, txn: Txn, index: int, proposed_at_ms: int, data: bytes) -> Result:
        """Apply one committed command and return its result.

        A command that doesn't parse or breaks a limit is `Rejected` and changes nothing: it is
        committed, so every node must get past it alike. Raises `StorageError` for one of a newer
        version: this node can't get past it as others do.
        """
        self._time_ms = max(self._time_ms, proposed_at_ms)
        try:
            command = decode_command(data)
            validate_command(command)
        except (CommandError, KeyValueStoreError) as error:
            return Rejected(f"log index {index}: {error}")
        except StorageError as error:
            raise StorageError(f"log index {index} holds {error}; start the newer version") from None
        handler = _HANDLERS.get(type(command))
        if handler is None:
            return self._check(index, command)
        context = ApplyContext(self._store, txn, index, self._time_ms)
        result = handler(context, command)
        self._moved |= context.dns_changed or bool(context.changed_packets)
        self._dns_changed |= context.dns_changed
        self._changed_packets.update(context.changed_packets)
        if len(self._changed_packets) > DNS_CHANGES:
            self._dns_changed, self._changed_packets = True, set()
        return result

    def _check(self, index: int, command: Any) -> CheckpointResult:
        if isinstance(command, Checkpoint):
            return CheckpointResult(index)
        if self._checkpoints is not None:
            self._checkpoints.reported(command)
        return CheckpointResult(command.index)

    def checkpoint(self, index: int) -> None:
        """The transaction that ended with the checkpoint at `index` is committed."""
        if self._checkpoints is not None:
            self._checkpoints.take(index)

    def end(self, txn: Txn) -> bool:
        """Finish the transaction's part; say whether anything DNS answers from has changed."""
        if self._time_ms != self._time_stored_ms:
            txn.put(_TIME, _U64.pack(self._time_ms), db=self._store.tables["machine"])
        return self._moved

    def take_dns_changes(self) -> set[bytes] | None:
        """What `end` spoke of since this was last asked: public keys whose packets have changed, or
        None if anything else that DNS answers from has."""
        changes = None if self._dns_changed else self._changed_packets
        self._dns_changed, self._changed_packets = False, set()
        return changes
