"""The client for programs without an event loop: each call waits for its answer.

An event loop of its own runs in a thread. What is not here is reached by `run`:
`client.run(client.calls.kv_txn(…))`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from aspen.client.cluster import Client
from aspen.client.kv import Changes, KvEntry, KvScan, KvWritten
from aspen.limits import CLIENT_REQUEST_MS, KV_SCAN_DEFAULT

T = TypeVar("T")


class SyncClient:
    """`with SyncClient(["http://127.0.0.1:8080"]) as client: client.put(b"k", b"v")`"""

    def __init__(
        self,
        addrs: Sequence[str],
        *,
        token: str | None = None,
        timeout_ms: int = CLIENT_REQUEST_MS,
        monotonic: bool = False,
    ) -> None:
        self.calls = Client(addrs, token=token, timeout_ms=timeout_ms, monotonic=monotonic)
        """The asynchronous client, for `run`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aspen-client", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self.calls.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self.calls.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Wait for what an asynchronous call gives. Raises what it raises."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def get(self, key: bytes, consistency: str = "consistent") -> KvEntry:
        return self.run(self.calls.kv_get(key, consistency))

    def put(self, key: bytes, value: bytes, *, once: str | None = None) -> KvWritten:
        return self.run(self.calls.kv_put(key, value, once=once))

    def delete(self, key: bytes, *, once: str | None = None) -> KvWritten:
        return self.run(self.calls.kv_delete(key, once=once))

    def increment(self, key: bytes, delta: int = 1, *, once: str | None = None) -> int:
        return self.run(self.calls.kv_increment(key, delta, once=once)).value

    def scan(self, prefix: bytes = b"", *, limit: int = KV_SCAN_DEFAULT, cursor: str | None = None) -> KvScan:
        return self.run(self.calls.kv_scan(prefix, limit=limit, cursor=cursor))

    def watch(self, prefix: bytes = b"", *, start: int | None = None) -> Iterator[Changes]:
        """Every change under the prefix, for ever. Close the iterator, or the client, to end it."""
        changes = self.calls.kv_watch(prefix, start=start)

        async def following() -> Changes | None:
            return await anext(changes, None)

        async def close() -> None:
            await changes.aclose()  # type: ignore[attr-defined]  # it is a generator

        try:
            while (told := self.run(following())) is not None:
                if told.changes:
                    yield told
        finally:
            self.run(close())
