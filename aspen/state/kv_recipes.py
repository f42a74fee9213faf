"""Well-known commands as the transactions they are."""

from __future__ import annotations

from collections.abc import Iterable

from aspen.errors import KeyValueStoreError
from aspen.state.kv_commands import (
    Compare,
    Comparison,
    KvTxn,
    Target,
    TxnDelete,
    TxnGet,
    TxnOp,
    TxnPut,
)


def is_as_expected(key: bytes, *, value: bytes | None = None, mod_revision: int | None = None) -> Compare:
    """The key has this value, or was modified last at this revision (0: is absent); neither: is absent."""
    if value is not None and mod_revision is not None:
        raise KeyValueStoreError.InvalidRequest("a value is expected or a revision, not both")
    if value is not None:
        return Compare(key, Target.VALUE, Comparison.EQUAL, value=value)
    return Compare(key, Target.MOD_REVISION, Comparison.EQUAL, mod_revision or 0)


def compare_and_swap(expected: Compare, value: bytes, lease: int = 0) -> KvTxn:
    """Its failure gets what is there instead."""
    key = expected.key
    return KvTxn((expected,), (TxnPut(key, value, lease),), (TxnGet(key),))


def compare_and_delete(expected: Compare) -> KvTxn:
    key = expected.key
    return KvTxn((expected,), (TxnDelete(key),), (TxnGet(key),))


def batch(pairs: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes], lease: int = 0) -> KvTxn:
    """Puts and deletes of different keys, all at once."""
    ops: list[TxnOp] = [TxnPut(key, value, lease) for key, value in pairs]
    ops += [TxnDelete(key) for key in deletes]
    return KvTxn((), tuple(ops))
