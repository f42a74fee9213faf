"""What key-value commands must keep to, whatever the state: checked when proposed and when applied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aspen.errors import KeyValueStoreError
from aspen.limits import (
    KV_BATCH_KEYS,
    KV_COMMAND_BYTES,
    KV_KEY_BYTES,
    KV_REQUEST_ID_BYTES,
    KV_RESERVED_PREFIX,
    KV_VALUE_BYTES,
    LEASE_BATCH,
    LEASE_TTL_MAX_MS,
    LEASE_TTL_MIN_MS,
)
from aspen.state.kv_commands import (
    Compare,
    KvCommand,
    KvDelete,
    KvDeleteRange,
    KvIncrement,
    KvOnce,
    KvSet,
    KvTxn,
    LeaseExpire,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    TxnGet,
    TxnOp,
    TxnPut,
)

_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)


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


def validate_kv_command(command: KvCommand) -> None:
    """Raises a kind of `KeyValueStoreError`."""
    match command:
        case KvSet(pairs=pairs, lease=lease, ttl_ms=ttl_ms):
            _validate_batch(len(pairs))
            for key, value in pairs:
                validate_key(key)
                _validate_value(value)
            _validate_size(size for pair in pairs for size in map(len, pair))
            _validate_lease(lease)
            if ttl_ms:
                _validate_ttl(ttl_ms)
                _require(not lease, "a key has a lease or a time to live of its own, not both")
        case KvDelete(keys=keys):
            _validate_batch(len(keys))
            for key in keys:
                validate_key(key)
        case KvDeleteRange(start=start, end=end):
            _validate_bound(start)
            _validate_bound(end or b"")
        case KvTxn():
            _validate_txn(command)
        case KvIncrement(key=key, delta=delta):
            validate_key(key)
            _require(delta in _INT64, "an increment is a signed 64-bit integer")
        case LeaseGrant(ttl_ms=ttl_ms):
            _validate_ttl(ttl_ms)
        case LeaseKeepAlive(leases=leases):
            _validate_leases(leases)
        case LeaseRevoke(lease=lease):
            _validate_leases((lease,))
        case LeaseExpire(leases=renewals):
            _validate_leases([lease for lease, _ in renewals])
            _require(all(index in _UINT64 for _, index in renewals), "not a log index")
        case KvOnce(request_id=request_id, command=inner):
            if not 1 <= len(request_id) <= KV_REQUEST_ID_BYTES:
                raise KeyValueStoreError.InvalidRequest(
                    f"an idempotency key is 1 to {KV_REQUEST_ID_BYTES} bytes"
                )
            validate_kv_command(inner)


def _validate_txn(txn: KvTxn) -> None:
    for part in (txn.compares, txn.success, txn.failure):
        if len(part) > KV_BATCH_KEYS:
            raise KeyValueStoreError.BatchTooLarge(
                f"{len(part)} comparisons or operations in a part of a transaction; "
                f"at most {KV_BATCH_KEYS} are allowed"
            )
    if not (txn.success or txn.failure):
        raise KeyValueStoreError.InvalidRequest("a transaction without an operation")
    for compare in txn.compares:
        _validate_compare(compare)
    for branch in (txn.success, txn.failure):
        _validate_branch(branch)
    values = [op.value for op in (*txn.success, *txn.failure) if isinstance(op, TxnPut)]
    keys = [part.key for part in (*txn.compares, *txn.success, *txn.failure)]
    _validate_size(map(len, (*keys, *values, *(compare.value for compare in txn.compares))))


def _validate_compare(compare: Compare) -> None:
    validate_key(compare.key)
    _validate_value(compare.value)
    _require(compare.number in _UINT64, "what a number is compared with is an unsigned 64-bit integer")


def _validate_branch(branch: Sequence[TxnOp]) -> None:
    changed: set[bytes] = set()
    for op in branch:
        validate_key(op.key)
        if isinstance(op, TxnGet):
            continue
        _require(op.key not in changed, "a key is changed twice in one branch of the transaction")
        changed.add(op.key)
        if isinstance(op, TxnPut):
            _validate_value(op.value)
            _validate_lease(op.lease)


def _validate_value(value: bytes) -> None:
    if len(value) > KV_VALUE_BYTES:
        raise KeyValueStoreError.ValueTooLarge(
            f"the value is {len(value)} bytes; at most {KV_VALUE_BYTES} are allowed"
        )


def _validate_bound(key: bytes) -> None:
    if len(key) > KV_KEY_BYTES:
        raise KeyValueStoreError.KeyTooLarge(f"a bound of a range is at most {KV_KEY_BYTES} bytes")


def _validate_batch(count: int) -> None:
    if not 1 <= count <= KV_BATCH_KEYS:
        raise KeyValueStoreError.BatchTooLarge(f"{count} keys in one batch; 1 to {KV_BATCH_KEYS} are allowed")


def _validate_size(sizes: Iterable[int]) -> None:
    size = sum(sizes)
    if size > KV_COMMAND_BYTES:
        raise KeyValueStoreError.BatchTooLarge(
            f"{size} bytes of keys and values in one command; at most {KV_COMMAND_BYTES} are allowed"
        )


def _validate_lease(lease: int) -> None:
    _require(lease in _UINT64, "a lease is an unsigned 64-bit number")


def _validate_leases(leases: Sequence[int]) -> None:
    if not 1 <= len(leases) <= LEASE_BATCH:
        raise KeyValueStoreError.BatchTooLarge(f"{len(leases)} leases; 1 to {LEASE_BATCH} are allowed")
    for lease in leases:
        _require(0 < lease < 2**64, "a lease is a positive 64-bit number")


def _validate_ttl(ttl_ms: int) -> None:
    _require(
        LEASE_TTL_MIN_MS <= ttl_ms <= LEASE_TTL_MAX_MS,
        f"a time to live is {LEASE_TTL_MIN_MS // 1_000} to {LEASE_TTL_MAX_MS // 1_000} seconds "
        "(ttl_ms counts milliseconds)",
    )


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise KeyValueStoreError.InvalidRequest(reason)
