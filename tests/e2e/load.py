"""An asyncio load client that remembers exactly what was acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from clients import HOST, Published
from cluster import NodeProcess


@dataclass
class Outcome:
    """What became of a burst of PUTs."""

    acknowledged: list[Published] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    """Status and JSON `error` of what was answered, but not with 204."""
    broken: int = 0
    """Connections that ended without an answer: the node died under them."""
    slowest_s: float = 0.0
    in_flight_at_kill: int = 0


async def put_all(
    packets: Sequence[Published],
    nodes: Sequence[NodeProcess],
    *,
    kill_after: int | None = None,
    kill: Callable[[], None] = lambda: None,
) -> Outcome:
    """PUT every packet at once, spread over the nodes; call `kill` when `kill_after` are acknowledged."""
    outcome = Outcome()
    unanswered = len(packets)

    async def put(session: aiohttp.ClientSession, packet: Published, node: NodeProcess) -> None:
        nonlocal unanswered
        url = f"http://{HOST}:{node.http_port}{packet.path}"
        began = time.monotonic()
        try:
            async with session.put(url, data=packet.payload) as response:
                await response.read()
        except (aiohttp.ClientError, OSError):
            outcome.broken += 1
            return
        finally:
            unanswered -= 1
            outcome.slowest_s = max(outcome.slowest_s, time.monotonic() - began)
        if response.status != 204:
            reason = (
                "" if response.content_type != "application/json" else str((await response.json())["error"])
            )
            outcome.refused.append((response.status, reason))
            return
        outcome.acknowledged.append(packet)
        if len(outcome.acknowledged) == kill_after:
            outcome.in_flight_at_kill = unanswered
            kill()

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=15)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(
            *(put(session, packet, nodes[i % len(nodes)]) for i, packet in enumerate(packets))
        )
    return outcome


async def missing_at(node: NodeProcess, packets: Sequence[Published]) -> list[Published]:
    """The packets that this node's own replica does not hold exactly."""
    found: list[Published] = []

    async def check(session: aiohttp.ClientSession, packet: Published) -> None:
        async with session.get(f"http://{HOST}:{node.http_port}{packet.path}") as response:
            if response.status != 200 or await response.read() != packet.payload:
                found.append(packet)

    connector = aiohttp.TCPConnector(limit=32)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(check(session, packet) for packet in packets))
    return found
