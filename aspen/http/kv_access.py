"""How the key-value routes reach the replicated state: writes that are answered for, reads that are fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from aspen.errors import HttpError, InvariantViolation, KeyValueStoreError, key_value_error
from aspen.http.freshness import freshness_headers
from aspen.http.kv_query import Query, consistency_of, number_of
from aspen.http.routing import Request
from aspen.limits import KV_MIN_REVISION_MS
from aspen.state.commands import Rejected, validate_command
from aspen.state.kv_commands import KvOnce, KvPlainCommand, KvRefused, KvReplayed
from aspen.state.ports import Consistency, Proposer

T = TypeVar("T")

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
REVISION: Final = "Aspen-Revision"
REPLAYED: Final = "Aspen-Replayed"

Beyond = Callable[[int], Awaitable[None]]
"""Returns once the local replica has a change after a revision."""


class KvAccess:
    """Writes, and waits until reads may look."""

    def __init__(self, proposer: Proposer, beyond: Beyond) -> None:
        self._proposer = proposer
        self._beyond = beyond

    async def write(
        self, request: Request, command: KvPlainCommand, kind: type[T]
    ) -> tuple[T, dict[str, str]]:
        """The result, and the headers that go with it. With an `Idempotency-Key`, once and for all.

        Raises a kind of `KeyValueStoreError` or of `ProposalError`, or `HttpError`.
        """
        once = request.headers.get(IDEMPOTENCY_KEY)
        if once is None:
            validate_command(command)
            result = await self._proposer.propose(command)
        else:
            whole = KvOnce(once.encode("utf-8", "surrogateescape"), command)
            validate_command(whole)
            result = await self._proposer.propose(whole)
        headers: dict[str, str] = {}
        if isinstance(result, KvReplayed):
            result = result.result
            headers[REPLAYED] = "true"
        if isinstance(result, Rejected):
            raise HttpError(400, "rejected", result.reason)
        if isinstance(result, KvRefused):
            raise key_value_error(result.code, result.reason, result.revision)
        if not isinstance(result, kind):
            raise InvariantViolation("a key-value command was answered as if it were another")
        told: Any = result
        headers[REVISION] = str(told.revision)
        return result, headers

    async def fresh(self, query: Query, revision: int = 0) -> dict[str, str]:
        """Wait until the local replica is as fresh as asked; the headers that say how fresh.

        It must have reached `min_revision` and the `revision` that a cursor goes on at. After a barrier
        it has, or nobody has; a stale replica is given a while. Raises a kind of `ProposalError`, or
        `KeyValueStoreError.FutureRevision`.
        """
        consistency = consistency_of(query)
        at_least = max(number_of(query, "min_revision") or 0, revision)
        stale = consistency is Consistency.STALE
        if not stale:
            await self._proposer.barrier(consistency)
        if at_least:
            try:
                async with asyncio.timeout(KV_MIN_REVISION_MS / 1_000 if stale else 0):
                    await self._beyond(at_least - 1)
            except TimeoutError:
                raise KeyValueStoreError.FutureRevision(f"revision {at_least} is not known here") from None
        return freshness_headers(self._proposer)
