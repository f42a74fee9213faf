"""Asking, again and again, where other nodes are: each source for itself, so that a dead one holds up nobody.

While somebody is missing a source is asked after a second, then two, four, … up to `LOOKUP_MAX_MS`; while
nobody is, once in `LOOKUP_REFRESH_MS`. Sources tell the address book what they find; what is found proves
nothing (whoever answers at an address must still prove the key that was dialled).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from aspen.errors import NetworkError
from aspen.limits import LOOKUP_MAX_MS, LOOKUP_MIN_MS, LOOKUP_MS, LOOKUP_REFRESH_MS

log = structlog.get_logger("aspen.discovery")

_WATCH_S: Final = 0.5


class Source(Protocol):
    """Where one can ask."""

    @property
    def name(self) -> str: ...

    async def look(self) -> bool:
        """Ask once, and tell the address book. Whether there was anything new. Raises `NetworkError`."""
        ...


class Lookups:
    """The sources of a node, each asked by a task of its own."""

    def __init__(
        self, sources: Sequence[Source], missing: Callable[[], bool], found: Callable[[], None]
    ) -> None:
        """`missing` says whether anybody is to be looked for; `found` hears that somebody can be dialled."""
        self._sources = sources
        self._missing = missing
        self._found = found
        self._tasks: list[asyncio.Task[None]] = []
        self._failing: set[str] = set()
        self._rng = random.Random()  # noqa: S311  spread, not secrecy

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep_asking(source)) for source in self._sources]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_asking(self, source: Source) -> None:
        pause_ms = LOOKUP_MIN_MS
        while True:
            await self._ask(source)
            if self._missing():
                await asyncio.sleep(pause_ms * (0.75 + self._rng.random() / 2) / 1_000)
                pause_ms = min(2 * pause_ms, LOOKUP_MAX_MS)
                continue
            pause_ms = LOOKUP_MIN_MS
            waited_s = 0.0
            while waited_s < LOOKUP_REFRESH_MS / 1_000 and not self._missing():
                await asyncio.sleep(_WATCH_S)
                waited_s += _WATCH_S

    async def _ask(self, source: Source) -> None:
        try:
            async with asyncio.timeout(LOOKUP_MS / 1_000):
                found = await source.look()
        except (NetworkError, TimeoutError) as error:
            if source.name not in self._failing:  # once, until it answers again
                self._failing.add(source.name)
                log.warning(
                    "can't be asked where nodes are", source=source.name, reason=str(error) or "no answer"
                )
        except Exception:
            log.exception("a source of addresses failed", source=source.name)
        else:
            if source.name in self._failing:
                self._failing.discard(source.name)
                log.info("answers again where nodes are", source=source.name)
            if found:
                self._found()
