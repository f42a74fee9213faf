"""The housekeeper: duties run while the node leads, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aspen.errors import NoLeader
from aspen.services.housekeeping import Housekeeper


class Sweep:
    name = "sweep"
    interval_ms = 1

    def __init__(self, told: Callable[[int, int], bool]) -> None:
        self._told = told

    async def run(self, now_ms: int, led_for_ms: int) -> bool:
        return self._told(now_ms, led_for_ms)


async def test_a_duty_runs_in_the_terms_this_node_leads() -> None:
    term: int | None = None
    clock_ms = 0
    turns: list[int] = []
    enough = asyncio.Event()

    def told(now_ms: int, led_for_ms: int) -> bool:
        nonlocal clock_ms
        assert term is not None
        turns.append(led_for_ms)
        clock_ms += 10
        if len(turns) % 5 == 0:
            enough.set()
        return len(turns) == 1  # more is due: its next turn comes at once

    keeper = Housekeeper(lambda: term, lambda: 1_000, lambda: clock_ms)
    keeper.add(Sweep(told))
    keeper.start()
    try:
        await asyncio.sleep(0.02)
        assert not turns
        term = 3
        await asyncio.wait_for(enough.wait(), 30)
        assert turns[:5] == [0, 10, 20, 30, 40]
        enough.clear()
        turns.clear()
        term = 4
        await asyncio.wait_for(enough.wait(), 30)
        assert 0 in turns  # a new term starts the count anew
    finally:
        await keeper.stop()


async def test_a_duty_that_fails_has_its_next_turn() -> None:
    turns = 0
    enough = asyncio.Event()

    def told(now_ms: int, led_for_ms: int) -> bool:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise NoLeader("nobody leads")
        if turns == 2:
            raise ValueError("a bug")
        enough.set()
        return False

    keeper = Housekeeper(lambda: 1, lambda: 0, lambda: 0)
    keeper.add(Sweep(told))
    keeper.start()
    try:
        await asyncio.wait_for(enough.wait(), 30)
    finally:
        await keeper.stop()
