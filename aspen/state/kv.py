"""The key-value store: what its commands change.

etcd's model: one global revision, one step per applied write command; each entry knows the
revision that created it, the one that last modified it, and its version since creation.
`kv_revisions` has the tables, `leases` what ends by itself, `kv_reader` the way to read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aspen.limits import KV_DELETE_RANGE_BYTES, KV_DELETE_RANGE_KEYS, KV_SCAN_BYTES, LEASES
from aspen.state import leases
from aspen.state.apply import ApplyContext
from aspen.state.kv_commands import (
    Compare,
    Comparison,
    KvDelete,
    KvDeleteRange,
    KvIncrement,
    KvIncrementResult,
    KvOnce,
    KvPlainCommand,
    KvPlainResult,
    KvRefused,
    KvReplayed,
    KvResult,
    KvSet,
    KvTxn,
    KvTxnResult,
    LeaseExpire,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    Target,
    TxnDelete,
    TxnGet,
    TxnOp,
    TxnOutcome,
    TxnPut,
)
from aspen.state.kv_revisions import HEADER, KvWriter, decode_entry
from aspen.state.requests import apply_once

_INT64: Final = range(-(2**63), 2**63)
_NUMBER_BYTES: Final = 20
"""Of the longest decimal 64-bit integer, sign included."""


class _Keys:
    """The keys under one command: changes that leases hear of."""

    def __init__(self, context: ApplyContext) -> None:
        self._context = context
        self.writer = KvWriter(context.store, context.txn)

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        old = self.writer.stored(key)
        self.writer.put(key, value, lease, old)
        leases.move(self._context, key, _lease_of(old), lease)

    def delete(self, key: bytes) -> int:
        """Bytes deleted; 0 if there was no such key."""
        old = self.writer.stored(key)
        if old is None:
            return 0
        self.writer.delete(key, old)
        leases.move(self._context, key, _lease_of(old), 0)
        return len(old)

    def refused(self, code: str, reason: str) -> KvRefused:
        return KvRefused(code, reason, self.writer.before.revision)


def _lease_of(stored: bytes | None) -> int:
    return 0 if stored is None else int(HEADER.unpack_from(stored)[3])


def apply_kv_set(context: ApplyContext, command: KvSet) -> KvResult | KvRefused:
    keys, lease = _Keys(context), command.lease
    if lease and not leases.takes_keys(context, lease):
        return keys.refused("lease_not_found", f"there is no lease {lease}")
    if command.ttl_ms:
        own = leases.grant_own(context, command.ttl_ms)
        if own is None:
            return keys.refused("too_many", f"there are {LEASES} leases already")
        lease = own
    # The last pair of a key wins; insertion order is the command's.
    for key, value in dict(command.pairs).items():
        keys.put(key, value, lease)
    return KvResult(keys.writer.end(), keys.writer.changed, lease=lease if command.ttl_ms else 0)


def apply_kv_delete(context: ApplyContext, command: KvDelete) -> KvResult:
    """Delete the keys that exist. Deleting nothing leaves the revision where it was."""
    keys = _Keys(context)
    for key in command.keys:
        keys.delete(key)
    return KvResult(keys.writer.end(), keys.writer.changed)


def apply_kv_delete_range(context: ApplyContext, command: KvDeleteRange) -> KvResult:
    keys, size = _Keys(context), 0
    cursor = context.txn.cursor(db=context.store.tables["kv"])
    start, end = command.start or b"\0", command.end
    while cursor.set_range(start):
        key = cursor.key()
        if end is not None and key >= end:
            break
        if keys.writer.changed >= KV_DELETE_RANGE_KEYS or size >= KV_DELETE_RANGE_BYTES:
            return KvResult(keys.writer.end(), keys.writer.changed, more=True)
        size += keys.delete(key)
        start = key
    return KvResult(keys.writer.end(), keys.writer.changed)


def apply_kv_increment(context: ApplyContext, command: KvIncrement) -> KvIncrementResult | KvRefused:
    keys = _Keys(context)
    stored = keys.writer.stored(command.key)
    value = command.delta
    if stored is not None:
        text = stored[HEADER.size :]
        if len(text) > _NUMBER_BYTES or not text.removeprefix(b"-").isdigit():
            return keys.refused("not_a_number", "the value is not a decimal integer")
        value += int(text)
    if value not in _INT64:
        return keys.refused("not_a_number", "the sum is beyond a signed 64-bit integer")
    keys.put(command.key, b"%d" % value, _lease_of(stored))
    return KvIncrementResult(keys.writer.end(), value)


# --- transactions -------------------------------------------------------------------------------


def apply_kv_txn(context: ApplyContext, command: KvTxn) -> KvTxnResult | KvRefused:
    keys = _Keys(context)
    succeeded = all(_holds(compare, keys.writer.stored(compare.key)) for compare in command.compares)
    branch = command.success if succeeded else command.failure
    for lease in sorted({op.lease for op in branch if isinstance(op, TxnPut) and op.lease}):
        if not leases.takes_keys(context, lease):
            return keys.refused("lease_not_found", f"there is no lease {lease}")
    if _result_bytes(keys, branch) > KV_SCAN_BYTES:
        return keys.refused("result_too_large", f"the transaction would get more than {KV_SCAN_BYTES} bytes")
    outcomes = tuple(_carry_out(keys, op) for op in branch)
    return KvTxnResult(keys.writer.end(), succeeded, outcomes, keys.writer.changed)


def _result_bytes(keys: _Keys, branch: tuple[TxnOp, ...]) -> int:
    """How much the gets will find at most: what is there, or what the transaction puts."""
    gets = [op.key for op in branch if isinstance(op, TxnGet)]
    put = sum(len(op.value) for op in branch if isinstance(op, TxnPut)) if gets else 0
    return put + sum(len(keys.writer.stored(key) or b"") for key in gets)


def _carry_out(keys: _Keys, op: TxnOp) -> TxnOutcome:
    match op:
        case TxnGet(key=key):
            stored = keys.writer.stored(key)
            return TxnOutcome(entry=None if stored is None else decode_entry(key, stored))
        case TxnPut(key=key, value=value, lease=lease):
            keys.put(key, value, lease)
            return TxnOutcome(1)
        case TxnDelete(key=key):
            return TxnOutcome(1 if keys.delete(key) else 0)


def _holds(compare: Compare, stored: bytes | None) -> bool:
    left: Any
    right: Any
    if compare.target is Target.VALUE:
        if stored is None:
            return False
        left, right = stored[HEADER.size :], compare.value
    else:
        create, modified, version, lease = (0, 0, 0, 0) if stored is None else HEADER.unpack_from(stored)
        numbers = {
            Target.VERSION: version,
            Target.CREATE_REVISION: create,
            Target.MOD_REVISION: modified,
            Target.LEASE: lease,
        }
        left, right = numbers[compare.target], compare.number
    match compare.comparison:
        case Comparison.EQUAL:
            return bool(left == right)
        case Comparison.NOT_EQUAL:
            return bool(left != right)
        case Comparison.LESS:
            return bool(left < right)
        case Comparison.GREATER:
            return bool(left > right)


# --- all of them --------------------------------------------------------------------------------


def _apply_kv_once(context: ApplyContext, command: KvOnce) -> KvPlainResult | KvReplayed:
    return apply_once(context, command, _apply_plain)


def _apply_plain(context: ApplyContext, command: KvPlainCommand) -> KvPlainResult:
    result: KvPlainResult = KV_HANDLERS[type(command)](context, command)
    return result


KV_HANDLERS: Final[dict[type, Callable[[ApplyContext, Any], Any]]] = {
    KvSet: apply_kv_set,
    KvDelete: apply_kv_delete,
    KvDeleteRange: apply_kv_delete_range,
    KvTxn: apply_kv_txn,
    KvIncrement: apply_kv_increment,
    LeaseGrant: leases.apply_lease_grant,
    LeaseKeepAlive: leases.apply_lease_keep_alive,
    LeaseRevoke: leases.apply_lease_revoke,
    LeaseExpire: leases.apply_lease_expire,
    KvOnce: _apply_kv_once,
}
