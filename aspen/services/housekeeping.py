"""Work that the leader does for the cluster, now and then: expiring, renewing, tidying up.

Nothing in the state changes by a clock. What is due is found by the leader, by its clock, and
proposed as commands, which all members apply alike. Each duty goes at its own pace in a task of
its own; one that fails is tried again at its next turn, so duties must bear being done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from aspen.errors import ProposalError

log = structlog.get_logger("aspen.services.housekeeping")


class Duty(Protocol):
    """One kind of work."""

    @property
    def name(self) -> str: ...

    @property
    def interval_ms(self) -> int:
        """Between two turns."""
        ...

    async def run(self, now_ms: int, led_for_ms: int) -> bool:
        """Propose what is due at wall-clock time `now_ms`; say whether more is due already.

        `led_for_ms` is how long this node has led without a break: a new leader can be lenient with
        those whose signs of life went to the one before it. May raise `ProposalError`.
        """
        ...


class Housekeeper:
    """Runs the duties while this node leads."""

    def __init__(
        self,
        leading_term: Callable[[], int | None],
        wall_ms: Callable[[], int],
        monotonic_ms: Callable[[], int],
    ) -> None:
        """`leading_term` is the term in which this node leads, None if it doesn't."""
        self._leading_term = leading_term
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._duties: list[Duty] = []
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, duty: Duty) -> None:
        """Before `start`."""
        self._duties.append(duty)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep_doing(duty), name=duty.name) for duty in self._duties]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_doing(self, duty: Duty) -> None:
        term: int | None = None
        since_ms = 0
        while True:
            await asyncio.sleep(duty.interval_ms / 1000)
            if self._leading_term() != term:
                term, since_ms = self._leading_term(), self._monotonic_ms()
            try:
                while (
                    term is not None
                    and self._leading_term() == term
                    and await duty.run(self._wall_ms(), self._monotonic_ms() - since_ms)
                ):
                    pass
            except ProposalError as error:
                log.info("put off", duty=duty.name, reason=str(error))
            except Exception:
                log.exception("a duty failed", duty=duty.name)
