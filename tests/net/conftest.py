"""Real endpoints on loopback, and strangers. The helpers beside this file are a plain module, found by path.

Every asynchronous test here runs under asyncio's own loop and under uvloop, which production uses.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop
from aioquic.asyncio import connect

sys.path.insert(0, str(Path(__file__).parent))

from stations import Station, Stranger

from aspen.net.endpoint import ALPN_RAFT
from aspen.net.quic_internals import dialler_configuration


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


Stations = Callable[..., Awaitable[Station]]
Strangers = Callable[..., Awaitable[Stranger]]


@pytest.fixture
async def station() -> AsyncIterator[Stations]:
    """Starts a `Station`; arguments as its constructor, `host` and `port`."""
    started: list[Station] = []

    async def start(node_id: int, *, host: str = "127.0.0.1", port: int = 0, **settings: object) -> Station:
        new = Station(node_id, **settings)  # type: ignore[arg-type]
        await new.start(host, port)
        started.append(new)
        return new

    yield start
    for each in started:
        await each.endpoint.close()


@pytest.fixture
async def stranger() -> AsyncIterator[Strangers]:
    """Connects a `Stranger` to a station; TLS is finished, nothing else."""
    async with AsyncExitStack() as stack:

        async def dial(target: Station, alpn: str = ALPN_RAFT, idle_s: float = 5) -> Stranger:
            protocol = await stack.enter_async_context(
                connect(*target.address, configuration=dialler_configuration(alpn, idle_s, 1200))
            )
            return Stranger(protocol)

        yield dial
