"""`KeyValueStore` and its implementation over a member in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Protocol

from aspen.api.commands import AnyWrite, Text, as_replicated, octets
from aspen.errors import (
    CommandError,
    KeyValueStoreError,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    ProposalError,
    key_value_error,
)
from aspen.limits import KV_SCAN_BYTES, KV_SCAN_DEFAULT, KV_SCAN_MAX, KV_WATCH_BYTES, KV_WATCH_EVENTS
from aspen.state.kv_checks import validate_key
from aspen.state.kv_commands import (
    Compare,
    KvEntry,
    KvIncrement,
    KvIncrementResult,
    KvOnce,
    KvPlainCommand,
    KvPlainResult,
    KvRefused,
    KvReplayed,
    KvResult,
    KvTxn,
    KvTxnResult,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseResult,
    LeaseRevoke,
    TxnOp,
)
from aspen.state.kv_reader import KvPage, KvRange, LmdbKv, under
from aspen.state.kv_revisions import KvEvent
from aspen.state.ports import Consistency, Proposer


class KeyValueStore(Protocol):
    """Linearizable key-value operations. Every error is a kind of `KeyValueStoreError`."""

    async def write(self, command: AnyWrite, *, idempotency_key: str | None = None) -> KvResult: ...

    async def read(
        self, key: Text, consistency: Consistency = Consistency.CONSISTENT, *, revision: int | None = None
    ) -> KvEntry: ...

    async def scan(
        self,
        prefix: Text = b"",
        *,
        after: Text | None = None,
        limit: int = KV_SCAN_DEFAULT,
        consistency: Consistency = Consistency.CONSISTENT,
        revision: int | None = None,
        keys_only: bool = False,
        descending: bool = False,
    ) -> KvPage: ...

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[TxnOp], failure: Sequence[TxnOp] = ()
    ) -> KvTxnResult: ...

    async def increment(self, key: Text, delta: int = 1) -> int: ...

    def watch(
        self, prefix: Text = b"", *, key: Text | None = None, after: int | None = None
    ) -> AsyncIterator[tuple[int, list[KvEvent]]]: ...


class Handle(Protocol):
    """A member in this process: a `Node`, or one of a `DeterministicCluster`."""

    @property
    def proposer(self) -> Proposer: ...

    @property
    def kv(self) -> LmdbKv: ...

    def kv_beyond(self, revision: int, /) -> Awaitable[None]:
        """Return once this member's replica has a change after `revision`."""
        ...


class KvClient:
    """`KeyValueStore` over a member in this process."""

    def __init__(self, node: Handle) -> None:
        self._node = node

    async def write(self, command: AnyWrite, *, idempotency_key: str | None = None) -> KvResult:
        """Raises a kind of `KeyValueStoreError`: `.CompareFailed` for a comparison that does not hold;
        `.OutcomeUnknown` means it may have happened. With the same `idempotency_key` it happens once,
        however often it is written."""
        result = await self._propose(as_replicated(command), idempotency_key)
        if isinstance(result, KvTxnResult):
            if not result.succeeded:
                found = result.outcomes[0].entry
                there = (
                    "there is no such key" if found is None else f"it was modified at {found.mod_revision}"
                )
                raise KeyValueStoreError.CompareFailed(
                    f"the key is not as expected: {there}", revision=result.revision
                )
            return KvResult(result.revision, result.changed)
        if not isinstance(result, KvResult):
            raise KeyValueStoreError.Failed(f"the write was answered oddly: {result}")
        return result

    async def read(
        self, key: Text, consistency: Consistency = Consistency.CONSISTENT, *, revision: int | None = None
    ) -> KvEntry:
        """Raises `KeyValueStoreError.NotFound`, or another kind. With a `revision`: as it was then."""
        validate_key(octets(key))
        await self._barrier(consistency)
        entry = self._node.kv.get(octets(key), revision)
        if entry is None:
            raise KeyValueStoreError.NotFound(f"no such key: {key!r}")
        return entry

    async def scan(
        self,
        prefix: Text = b"",
        *,
        after: Text | None = None,
        limit: int = KV_SCAN_DEFAULT,
        consistency: Consistency = Consistency.CONSISTENT,
        revision: int | None = None,
        keys_only: bool = False,
        descending: bool = False,
    ) -> KvPage:
        """One page of the keys under `prefix`. Continue with `after` = the last key; with `revision` =
        the page's revision, as of the same moment."""
        if not 1 <= limit <= KV_SCAN_MAX:
            raise KeyValueStoreError.Failed(f"a scan's limit is 1 to {KV_SCAN_MAX}, not {limit}")
        await self._barrier(consistency)
        start = None if after is None else octets(after)
        range_ = under(octets(prefix), after=start, descending=descending)
        return self._node.kv.scan(range_, limit, KV_SCAN_BYTES, revision=revision, keys_only=keys_only)

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[TxnOp],
        failure: Sequence[TxnOp] = (),
        *,
        idempotency_key: str | None = None,
    ) -> KvTxnResult:
        result = await self._propose(KvTxn(tuple(compares), tuple(success), tuple(failure)), idempotency_key)
        if not isinstance(result, KvTxnResult):
            raise KeyValueStoreError.Failed(f"the transaction was answered oddly: {result}")
        return result

    async def increment(self, key: Text, delta: int = 1, *, idempotency_key: str | None = None) -> int:
        """Add to the decimal integer under `key`; the sum."""
        result = await self._propose(KvIncrement(octets(key), delta), idempotency_key)
        if not isinstance(result, KvIncrementResult):
            raise KeyValueStoreError.Failed(f"the increment was answered oddly: {result}")
        return result.value

    async def watch(
        self, prefix: Text = b"", *, key: Text | None = None, after: int | None = None
    ) -> AsyncIterator[tuple[int, list[KvEvent]]]:
        """Every change under `prefix` (or of `key` alone) after a revision, or from now on: the revision
        and its changes, in order, none left out. Raises `KeyValueStoreError.Compacted` if the changes
        after it are no longer known."""
        range_ = under(octets(prefix))
        if key is not None:
            range_ = KvRange(octets(key), octets(key) + b"\0")
        seen = self._node.kv.revision() if after is None else after
        while True:
            events = self._node.kv.events(seen, range_.has, KV_WATCH_EVENTS, KV_WATCH_BYTES)
            for revision, changes in events.batches:
                yield revision, changes
            seen = events.through
            if seen >= self._node.kv.revision():
                await self._node.kv_beyond(seen)

    # --- leases -------------------------------------------------------------------------------

    async def grant(self, ttl_ms: int, *, idempotency_key: str | None = None) -> LeaseResult:
        return await self._lease(LeaseGrant(ttl_ms), idempotency_key)

    async def keep_alive(self, lease: int) -> LeaseResult:
        """Raises `KeyValueStoreError.LeaseNotFound` if it has ended."""
        return await self._lease(LeaseKeepAlive((lease,)))

    async def revoke(self, lease: int) -> LeaseResult:
        return await self._lease(LeaseRevoke(lease))

    async def _lease(
        self, command: LeaseGrant | LeaseKeepAlive | LeaseRevoke, idempotency_key: str | None = None
    ) -> LeaseResult:
        result = await self._propose(command, idempotency_key)
        if not isinstance(result, LeaseResult):
            raise KeyValueStoreError.Failed(f"the lease was answered oddly: {result}")
        return result

    # --- the node -----------------------------------------------------------------------------

    async def _propose(self, command: KvPlainCommand, idempotency_key: str | None) -> KvPlainResult:
        try:
            if idempotency_key is None:
                result = await self._node.proposer.propose(command)
            else:
                result = await self._node.proposer.propose(KvOnce(idempotency_key.encode(), command))
        except ProposalError as error:
            raise _kv_error(error) from error
        except CommandError as error:
            raise KeyValueStoreError.Failed(str(error)) from error
        if isinstance(result, KvReplayed):
            result = result.result
        if isinstance(result, KvRefused):
            raise key_value_error(result.code, result.reason, result.revision)
        if not isinstance(result, KvPlainResult):
            raise KeyValueStoreError.Failed(f"the write was refused: {result}")
        return result

    async def _barrier(self, consistency: Consistency) -> None:
        try:
            await self._node.proposer.barrier(consistency)
        except ProposalError as error:
            raise _kv_error(error) from error


def _kv_error(error: ProposalError) -> KeyValueStoreError:
    match error:
        case OutcomeUnknown():
            return KeyValueStoreError.OutcomeUnknown(str(error))
        case NotLeader():
            return KeyValueStoreError.NotLeader(str(error))
        case NoLeader():
            return KeyValueStoreError.Timeout(str(error))
        case _:
            return KeyValueStoreError.Failed(str(error))
