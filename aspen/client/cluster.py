"""A client of a whole cluster: whichever of its nodes answers.

A request that a node certainly did not carry out goes to the next one, with growing pauses, until the
deadline. A write of unknown outcome goes on only under an idempotency key (`once`), which makes
sending it again harmless; without one it is for the caller to find out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from aspen.client.kv import Changes, KvCalls
from aspen.client.node import NodeClient
from aspen.client.transport import Answer, Query
from aspen.errors import ClientError, ClientOutcomeUnknown, ClientUnavailable, ConfigError
from aspen.limits import CLIENT_REQUEST_MS, CLIENT_RETRY_MAX_MS, CLIENT_RETRY_MIN_MS


class Client(KvCalls):
    """`async with Client(["http://10.0.0.1:8080", …]) as client:`

    With `monotonic`, no read shows an earlier state than a read or write before it did, whichever
    nodes answer.
    """

    def __init__(
        self,
        addrs: Sequence[str],
        *,
        token: str | None = None,
        timeout_ms: int = CLIENT_REQUEST_MS,
        monotonic: bool = False,
    ) -> None:
        """`timeout_ms` is for a call with all its tries. Raises `ConfigError`."""
        if not addrs:
            raise ConfigError("a client needs the address of a node, or of several")
        self._nodes = [NodeClient(addr, token=token, timeout_ms=timeout_ms) for addr in addrs]
        self._timeout_s = timeout_ms / 1_000
        self._monotonic = monotonic
        self._at = 0
        self.revision = 0
        """The newest that an answer told of."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for node in self._nodes:
            await self._stack.enter_async_context(node)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        may_repeat = method == "GET" or "Idempotency-Key" in (headers or {})
        if self._monotonic and method == "GET" and self.revision:
            query = {**(query or {}), "min_revision": str(self.revision)}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        pause_ms, tried = CLIENT_RETRY_MIN_MS, 0
        unknown: ClientError | None = None
        while True:
            left_ms = int((deadline - loop.time()) * 1_000)
            try:
                node = self._nodes[self._at]
                # A node may be there and never answer: half the time is left for another.
                try_ms = max(left_ms // 2 if may_repeat and len(self._nodes) > 1 else left_ms, 1)
                answer = await node.ask(method, path, query, body=body, headers=headers, timeout_ms=try_ms)
            except ClientOutcomeUnknown as error:
                if not may_repeat:
                    raise
                failure: ClientError = error
                unknown = error
            except ClientUnavailable as error:
                failure = error
            else:
                self.revision = max(self.revision, answer.revision)
                return answer
            self._at = (self._at + 1) % len(self._nodes)
            tried += 1
            if tried % len(self._nodes) == 0:
                pause_s = random.uniform(0.5, 1.0) * pause_ms / 1_000  # noqa: S311  spreads load
                pause_ms = min(2 * pause_ms, CLIENT_RETRY_MAX_MS)
            else:
                pause_s = 0.0
            if loop.time() + pause_s >= deadline:
                # What was sent once may yet happen, whatever later tries were told.
                raise unknown or failure
            await asyncio.sleep(pause_s)

    async def kv_watch(
        self, prefix: bytes = b"", *, key: bytes | None = None, start: int | None = None
    ) -> AsyncIterator[Changes]:
        """Every change, once and in order, whatever becomes of single nodes: a watch that breaks is
        resumed on another. Ends with `ClientCompacted`, or when no node answers until the deadline."""
        loop = asyncio.get_running_loop()
        pause_ms = CLIENT_RETRY_MIN_MS
        heard = loop.time()
        while True:
            try:
                node = self._nodes[self._at]
                async for told in node.kv_watch(prefix, key=key, start=start):
                    heard, pause_ms = loop.time(), CLIENT_RETRY_MIN_MS
                    if start is not None and told.changes and told.revision < start:
                        continue
                    start = told.revision + 1
                    self.revision = max(self.revision, told.revision)
                    yield told
                failure = ClientUnavailable(0, "unreachable", "the watch ended")
            except ClientUnavailable as error:
                failure = error
            self._at = (self._at + 1) % len(self._nodes)
            if loop.time() - heard > self._timeout_s:
                raise failure
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause_ms / 1_000)  # noqa: S311
            pause_ms = min(2 * pause_ms, CLIENT_RETRY_MAX_MS)
