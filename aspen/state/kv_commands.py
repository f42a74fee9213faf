"""Commands that change the key-value store, and what applying them says.

One command takes effect at once and whole, at one revision; one that changes nothing leaves the
revision where it was. What can only be decided in the order of the log (does the lease exist? is
that value a number?) is answered by `KvRefused`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec

# --- what is stored -----------------------------------------------------------------------------


class KvEntry(NamedTuple):
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    """1 when created, counts up with every change."""
    lease: int = 0
    """The lease that the key ends with; 0 if none."""


# --- changes of keys ----------------------------------------------------------------------------


class KvSet(msgspec.Struct, frozen=True, tag=2, array_like=True, forbid_unknown_fields=True):
    """Set keys to values, all or none. Later pairs win over earlier ones with the same key."""

    pairs: tuple[tuple[bytes, bytes], ...]
    lease: int = 0
    """Attach the keys to this lease; 0 detaches them from any."""
    ttl_ms: int = 0
    """Give the keys a lease of their own (and of nobody else's); 0 for none."""


class KvDelete(msgspec.Struct, frozen=True, tag=3, array_like=True, forbid_unknown_fields=True):
    """Delete keys, those that exist."""

    keys: tuple[bytes, ...]


class KvDeleteRange(msgspec.Struct, frozen=True, tag=20, array_like=True, forbid_unknown_fields=True):
    """Delete the first keys from `start` on and before `end`, as many as one command may."""

    start: bytes
    end: bytes | None
    """None: to the end of the store."""


class Target(IntEnum):
    """What of a key is compared. A key that doesn't exist has 0 for every number, and no value."""

    VALUE = 0
    VERSION = 1
    CREATE_REVISION = 2
    MOD_REVISION = 3
    LEASE = 4


class Comparison(IntEnum):
    EQUAL = 0
    NOT_EQUAL = 1
    LESS = 2
    GREATER = 3


class Compare(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A condition on one key. A comparison with the value of a key that doesn't exist fails,
    whichever way it goes (as etcd has it); `Target.VERSION` equal to 0 asks whether it is absent."""

    key: bytes
    target: Target
    comparison: Comparison
    number: int = 0
    value: bytes = b""


class TxnGet(msgspec.Struct, frozen=True, tag=1, array_like=True, forbid_unknown_fields=True):
    key: bytes


class TxnPut(msgspec.Struct, frozen=True, tag=2, array_like=True, forbid_unknown_fields=True):
    key: bytes
    value: bytes
    lease: int = 0


class TxnDelete(msgspec.Struct, frozen=True, tag=3, array_like=True, forbid_unknown_fields=True):
    key: bytes


TxnOp = TxnGet | TxnPut | TxnDelete


class KvTxn(msgspec.Struct, frozen=True, tag=21, array_like=True, forbid_unknown_fields=True):
    """If all comparisons hold, the operations of `success`, else those of `failure`, in order, at once.

    No key is changed twice by one branch. A get sees the changes before it.
    """

    compares: tuple[Compare, ...]
    success: tuple[TxnOp, ...]
    failure: tuple[TxnOp, ...] = ()


class KvIncrement(msgspec.Struct, frozen=True, tag=22, array_like=True, forbid_unknown_fields=True):
    """Add to the decimal integer that the value is; a key that doesn't exist counts as 0.

    The key keeps its lease.
    """

    key: bytes
    delta: int


# --- leases -------------------------------------------------------------------------------------


class LeaseGrant(msgspec.Struct, frozen=True, tag=23, array_like=True, forbid_unknown_fields=True):
    ttl_ms: int


class LeaseKeepAlive(msgspec.Struct, frozen=True, tag=24, array_like=True, forbid_unknown_fields=True):
    """Start the time of these leases anew."""

    leases: tuple[int, ...]


class LeaseRevoke(msgspec.Struct, frozen=True, tag=25, array_like=True, forbid_unknown_fields=True):
    """End the lease and delete its keys."""

    lease: int


class LeaseExpire(msgspec.Struct, frozen=True, tag=26, array_like=True, forbid_unknown_fields=True):
    """End these leases, unless they were renewed since: (lease, log index of its last renewal)."""

    leases: tuple[tuple[int, int], ...]


KvPlainCommand = (
    KvSet
    | KvDelete
    | KvDeleteRange
    | KvTxn
    | KvIncrement
    | LeaseGrant
    | LeaseKeepAlive
    | LeaseRevoke
    | LeaseExpire
)


class KvOnce(msgspec.Struct, frozen=True, tag=30, array_like=True, forbid_unknown_fields=True):
    """Do this unless it was done before under the same `request_id`; then answer what was answered."""

    request_id: bytes
    command: KvPlainCommand


KvCommand = KvPlainCommand | KvOnce


# --- what comes of them -------------------------------------------------------------------------


class KvResult(msgspec.Struct, frozen=True, tag=1, array_like=True):
    revision: int
    """The store's revision after the command."""
    changed: int
    """Keys set or deleted."""
    more: bool = False
    """A range was too long for one command: there are more keys in it."""
    lease: int = 0
    """The lease that the keys were given by `ttl_ms`."""


class TxnOutcome(msgspec.Struct, frozen=True, array_like=True):
    """What came of one operation of a transaction."""

    changed: int = 0
    """1 for a put, and for a delete of a key that was there."""
    entry: KvEntry | None = None
    """What a get found."""


class KvTxnResult(msgspec.Struct, frozen=True, tag=2, array_like=True):
    revision: int
    succeeded: bool
    outcomes: tuple[TxnOutcome, ...]
    """Of the branch taken, in order."""
    changed: int = 0


class KvIncrementResult(msgspec.Struct, frozen=True, tag=3, array_like=True):
    revision: int
    value: int


class LeaseResult(msgspec.Struct, frozen=True, tag=4, array_like=True):
    lease: int
    """0 for a command on several."""
    ttl_ms: int
    revision: int
    changed: int = 0
    """Keys deleted."""
    renewed: tuple[int, ...] = ()
    """The leases of a keep-alive that there are."""


class KvRefused(msgspec.Struct, frozen=True, tag=5, array_like=True):
    """Nothing was changed; `code` is that of a `KeyValueStoreError`."""

    code: str
    reason: str
    revision: int


KvPlainResult = KvResult | KvTxnResult | KvIncrementResult | LeaseResult | KvRefused


class KvReplayed(msgspec.Struct, frozen=True):
    """The answer given before to the same request id."""

    result: KvPlainResult


KvCommandResult = KvPlainResult | KvReplayed
