"""Leases: a time to live that any number of keys share, renewed by whoever holds it.

::

    leases             lease → ttl ms, log index and time of the last renewal, number of keys, flags
    lease_keys         lease ‖ key → –
    leases_by_renewal  log index of the last renewal ‖ lease → –

The state knows no moment at which a lease ends, only when it was renewed, and that by the place in
the log. The leader watches renewals come in and counts the time since each by its own monotonic
clock (`aspen.state.lease_expiry`); what has run out it proposes to end, naming the renewal it means. So no
clock that steps, on whichever node, ends a lease early, and a new leader, which has just seen every
renewal for the first time, gives each lease its full time again.

A lease is numbered by the log index of its grant: never used twice, and ever growing, it serves as
a fencing token too.

Ending a lease deletes its keys: at one revision if they are no more than one command may delete,
else in several commands, between which the lease is *ending* and takes neither keys nor renewals.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from aspen.limits import KV_DELETE_RANGE_BYTES, KV_DELETE_RANGE_KEYS, LEASES
from aspen.state.apply import ApplyContext
from aspen.state.kv_commands import (
    KvRefused,
    LeaseExpire,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseResult,
    LeaseRevoke,
)
from aspen.state.kv_revisions import U64, KvWriter, read_state
from aspen.state.store import TableStore, Txn

_LEASE: Final = struct.Struct(">QQQQB")
_OWN: Final = 1
"""Made for its keys by a time to live; goes when the last of them does."""
_ENDING: Final = 2


class Lease(NamedTuple):
    lease: int
    ttl_ms: int
    renewed_index: int
    renewed_at_ms: int
    """By the clock of the leader of then."""
    keys: int
    flags: int

    @property
    def ending(self) -> bool:
        return bool(self.flags & _ENDING)


def read_lease(store: TableStore, txn: Txn, lease: int) -> Lease | None:
    value = txn.get(U64.pack(lease), db=store.tables["leases"])
    return None if value is None else Lease(lease, *_LEASE.unpack(value))


def _put(context: ApplyContext, lease: Lease) -> None:
    context.txn.put(U64.pack(lease.lease), _LEASE.pack(*lease[1:]), db=context.store.tables["leases"])


def _place(lease: Lease) -> bytes:
    return U64.pack(lease.renewed_index) + U64.pack(lease.lease)


def _remove(context: ApplyContext, lease: Lease) -> None:
    tables = context.store.tables
    context.txn.delete(U64.pack(lease.lease), db=tables["leases"])
    context.txn.delete(_place(lease), db=tables["leases_by_renewal"])


def _renew(context: ApplyContext, lease: Lease, flags: int) -> Lease:
    """The lease with its time begun anew."""
    table = context.store.tables["leases_by_renewal"]
    context.txn.delete(_place(lease), db=table)
    renewed = lease._replace(renewed_index=context.index, renewed_at_ms=context.time_ms, flags=flags)
    context.txn.put(_place(renewed), b"", db=table)
    _put(context, renewed)
    return renewed


def grant(context: ApplyContext, ttl_ms: int, flags: int = 0) -> int | None:
    """A new lease; None if there are too many."""
    store, txn = context.store, context.txn
    if txn.stat(store.tables["leases"])["entries"] >= LEASES:
        return None
    lease = Lease(context.index, ttl_ms, context.index, context.time_ms, 0, flags)
    _put(context, lease)
    txn.put(_place(lease), b"", db=store.tables["leases_by_renewal"])
    return lease.lease


def grant_own(context: ApplyContext, ttl_ms: int) -> int | None:
    """A lease for the keys of one command alone."""
    return grant(context, ttl_ms, _OWN)


def takes_keys(context: ApplyContext, lease: int) -> bool:
    found = read_lease(context.store, context.txn, lease)
    return found is not None and not found.ending


def move(context: ApplyContext, key: bytes, old: int, new: int) -> None:
    """The key leaves one lease for another; 0 is none."""
    if old == new:
        return
    tables, txn = context.store.tables, context.txn
    if old and (lease := read_lease(context.store, txn, old)) is not None:
        txn.delete(U64.pack(old) + key, db=tables["lease_keys"])
        left = lease._replace(keys=lease.keys - 1)
        if not left.keys and left.flags & _OWN:
            _remove(context, left)
        else:
            _put(context, left)
    if new and (lease := read_lease(context.store, txn, new)) is not None:
        txn.put(U64.pack(new) + key, b"", db=tables["lease_keys"])
        _put(context, lease._replace(keys=lease.keys + 1))


# --- commands -----------------------------------------------------------------------------------


def apply_lease_grant(context: ApplyContext, command: LeaseGrant) -> LeaseResult | KvRefused:
    revision = read_state(context.store, context.txn).revision
    lease = grant(context, command.ttl_ms)
    if lease is None:
        return KvRefused("too_many", f"there are {LEASES} leases already", revision)
    return LeaseResult(lease, command.ttl_ms, revision)


def apply_lease_keep_alive(context: ApplyContext, command: LeaseKeepAlive) -> LeaseResult | KvRefused:
    """Renews those that there are; if there is none of them, that is an error."""
    revision = read_state(context.store, context.txn).revision
    renewed: list[int] = []
    ttl_ms = 0
    for number in command.leases:
        lease = read_lease(context.store, context.txn, number)
        if lease is not None and not lease.ending:
            _renew(context, lease, lease.flags)
            renewed.append(number)
            ttl_ms = lease.ttl_ms
    if not renewed:
        return KvRefused("lease_not_found", _no_lease(command.leases[0]), revision)
    only = command.leases[0] if len(command.leases) == 1 else 0
    return LeaseResult(only, ttl_ms if only else 0, revision, renewed=tuple(renewed))


def apply_lease_revoke(context: ApplyContext, command: LeaseRevoke) -> LeaseResult | KvRefused:
    lease = read_lease(context.store, context.txn, command.lease)
    if lease is None:
        revision = read_state(context.store, context.txn).revision
        return KvRefused("lease_not_found", _no_lease(command.lease), revision)
    writer = KvWriter(context.store, context.txn)
    _end(context, writer, lease, _Budget())
    return LeaseResult(command.lease, 0, writer.end(), writer.changed)


def apply_lease_expire(context: ApplyContext, command: LeaseExpire) -> LeaseResult:
    """A lease that was renewed after the renewal named lives on."""
    writer, budget = KvWriter(context.store, context.txn), _Budget()
    for number, renewed_index in command.leases:
        lease = read_lease(context.store, context.txn, number)
        if lease is not None and lease.renewed_index == renewed_index and budget.is_left:
            _end(context, writer, lease, budget)
    return LeaseResult(0, 0, writer.end(), writer.changed)


class _Budget:
    """What one command may still delete."""

    def __init__(self) -> None:
        self._keys = KV_DELETE_RANGE_KEYS
        self._bytes = KV_DELETE_RANGE_BYTES

    @property
    def is_left(self) -> bool:
        return self._keys > 0 and self._bytes > 0

    def spend(self, size: int) -> None:
        self._keys -= 1
        self._bytes -= size


def _end(context: ApplyContext, writer: KvWriter, lease: Lease, budget: _Budget) -> None:
    """Delete its keys, as many as may be; the lease too, if those were all."""
    tables, txn = context.store.tables, context.txn
    prefix = U64.pack(lease.lease)
    cursor = txn.cursor(db=tables["lease_keys"])
    keys = lease.keys
    while cursor.set_range(prefix) and cursor.key().startswith(prefix):
        if not budget.is_left:
            # Renewed, as ending: so the leader finds it among what is new, and goes on.
            _renew(context, lease._replace(keys=keys), lease.flags | _ENDING)
            return
        place = cursor.key()
        key = place[U64.size :]
        txn.delete(place, db=tables["lease_keys"])
        keys -= 1
        stored = writer.stored(key)
        if stored is not None:
            budget.spend(len(stored))
            writer.delete(key, stored)
    _remove(context, lease)


def _no_lease(lease: int) -> str:
    return f"there is no lease {lease}: never granted, expired or revoked"


# --- readers ------------------------------------------------------------------------------------


class LmdbLeases:
    """Reads leases from the local replica."""

    __slots__ = ("_store",)

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def get(self, lease: int) -> Lease | None:
        with self._store.read() as txn:
            return read_lease(self._store, txn, lease)

    def keys(self, lease: int, limit: int) -> list[bytes]:
        """The first keys of a lease, in order."""
        prefix = U64.pack(lease)
        found: list[bytes] = []
        with self._store.read() as txn:
            cursor = txn.cursor(db=self._store.tables["lease_keys"])
            there = cursor.set_range(prefix)
            while there and len(found) < limit and cursor.key().startswith(prefix):
                found.append(cursor.key()[U64.size :])
                there = cursor.next()
        return found

    def after(self, lease: int, limit: int) -> list[Lease]:
        """Leases in the order of their grants, from behind `lease` on."""
        found: list[Lease] = []
        with self._store.read() as txn:
            cursor = txn.cursor(db=self._store.tables["leases"])
            there = cursor.set_range(U64.pack(lease + 1))
            while there and len(found) < limit:
                key, value = cursor.item()
                found.append(Lease(U64.unpack(key)[0], *_LEASE.unpack(value)))
                there = cursor.next()
        return found

    def renewed_after(self, index: int, limit: int) -> list[Lease]:
        """Leases in the order of their last renewals, from behind those of a log index on.

        All renewals of one index are given together, so at most `limit` and a command's more.
        """
        found: list[Lease] = []
        with self._store.read() as txn:
            cursor = txn.cursor(db=self._store.tables["leases_by_renewal"])
            there = cursor.set_range(U64.pack(index + 1))
            while there:
                place = cursor.key()
                lease = read_lease(self._store, txn, U64.unpack_from(place, U64.size)[0])
                if lease is not None:
                    if len(found) >= limit and found[-1].renewed_index != lease.renewed_index:
                        break
                    found.append(lease)
                there = cursor.next()
        return found
