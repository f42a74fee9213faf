"""Relays on loopback. The helpers beside this file are a plain module, found by path."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from relay_stations import COOKIE, Caller, Callers, Line, Lines, Relays, macs

from aspen.identity import Identity
from aspen.relay.access import Access, parse_relay_url
from aspen.relay.client import RelayClient
from aspen.relay.hub import RelayLimits
from aspen.relay.standalone import StandaloneRelay


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
def relay(stack: AsyncExitStack) -> Relays:
    """Starts a relay for those who know the cookie."""

    async def start(
        access: Access | None = None, limits: RelayLimits | None = None, port: int = 0
    ) -> StandaloneRelay:
        access = access or Access(authenticators=macs(COOKIE))
        started = StandaloneRelay(access, limits or RelayLimits(), None)
        await started.start(("127.0.0.1", port))
        stack.push_async_callback(started.close)
        return started

    return start


@pytest.fixture
def caller(stack: AsyncExitStack) -> Callers:
    """A WebSocket to a relay, which says whatever a test wants."""

    async def connect(to: StandaloneRelay, host: str = "") -> Caller:
        return await stack.enter_async_context(Caller.connected(to.address, host))

    return connect


@pytest.fixture
def line(stack: AsyncExitStack) -> Lines:
    """A node's client of a relay, connected unless told otherwise."""

    async def start(
        to: StandaloneRelay, identity: Identity | None = None, cookie: str | None = COOKIE, wait: bool = True
    ) -> Line:
        made = Line(identity or Identity.generate())
        url = parse_relay_url("relay_url", "http://{}:{}".format(*to.address))
        mac = () if cookie is None else macs(cookie)
        made.client = RelayClient(url, made.identity, mac, made.receive, made.gone.put_nowait, lambda: None)
        made.client.start()
        stack.push_async_callback(made.client.stop)
        if wait:
            await made.connects()
        return made

    return start
