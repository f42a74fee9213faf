"""Clients that ask DNS over one transport each, and judge every answer by what was acknowledged."""

from __future__ import annotations

import asyncio
import random
import struct
from typing import Final

import dns.message
import dns.name
from clients import now_us
from cluster import NodeProcess
from soak_runner.askers import OPEN, Asker
from soak_runner.measures import Measures
from soak_runner.packets import NUMBER, Key
from soak_runner.places import Pace, Places

ANSWER_S: Final = 2.0
OPEN_S: Final = 5.0
KEPT_FOR: Final = 200
"""Queries on one connection; then it is closed and another opened, as clients come and go."""
IDLE_S: Final = 5.0
"""A connection not used for so long is not used again: servers close theirs after ten seconds."""
NOERROR, NXDOMAIN = 0, 3
ABSENT_PART: Final = 0.1

SHARES: Final = {"UDP": 0.6, "TCP": 0.14, "TLS": 0.12, "HTTPS": 0.1, "QUIC": 0.04}
"""Of all queries. A client's QUIC costs this machine more than the server's."""
CLIENTS: Final = {"UDP": 4, "TCP": 2, "TLS": 2, "HTTPS": 2, "QUIC": 2}


class _Kept:
    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self.uses = 0
        self.used = asyncio.get_running_loop().time()


class Questioner:
    """One client of one transport."""

    def __init__(
        self, transport: str, places: Places, keys: list[Key], measures: Measures, rng: random.Random
    ) -> None:
        self._open = OPEN[transport]
        self._kind = f"DNS {transport}"
        self._places = places
        self._keys = keys
        self._measures = measures
        self._rng = rng
        self._kept: dict[NodeProcess, _Kept] = {}

    async def run(self, per_s: float, until: asyncio.Event) -> None:
        pace = Pace(per_s)
        try:
            while not until.is_set():
                await pace.turn()
                await self._question()
        finally:
            for node in list(self._kept):
                await self._drop(node)

    async def _question(self) -> None:
        node, key = self._places.pick(), self._rng.choice(self._keys)
        absent = self._rng.random() < ABSENT_PART
        name = f"absent.{key.name}" if absent else key.name
        query = question(name, self._rng.getrandbits(16))
        floor = key.floors.get(node, 0)
        loop = asyncio.get_running_loop()
        try:
            kept = await self._connection(node)
            began = loop.time()
            async with asyncio.timeout(ANSWER_S):
                answer = await kept.asker.ask(query)
        except (OSError, EOFError, TimeoutError) as error:
            self._measures.failed(self._kind, _named(error))
            self._places.avoid(node)
            await self._drop(node)
            return
        self._measures.done(self._kind, loop.time() - began)
        kept.used = loop.time()
        if problem := wrong(answer, query, floor, key.tried, absent):
            self._measures.problem(f"{node} by {self._kind} for {name}: {problem} (at {now_us()} µs)")

    async def _connection(self, node: NodeProcess) -> _Kept:
        kept = self._kept.get(node)
        if kept is not None and (
            kept.uses >= KEPT_FOR or asyncio.get_running_loop().time() - kept.used > IDLE_S
        ):
            await self._drop(node)
            kept = None
        if kept is None:
            async with asyncio.timeout(OPEN_S):
                kept = self._kept[node] = _Kept(await self._open(node))
        kept.uses += 1
        return kept

    async def _drop(self, node: NodeProcess) -> None:
        kept = self._kept.pop(node, None)
        if kept is None:
            return
        try:
            async with asyncio.timeout(ANSWER_S):
                await kept.asker.close()
        except (OSError, EOFError, TimeoutError):
            pass


async def ask_all(
    per_s: float,
    places: Places,
    keys: list[Key],
    measures: Measures,
    rng: random.Random,
    until: asyncio.Event,
) -> None:
    """All transports at once, until told to end."""
    async with asyncio.TaskGroup() as group:
        for transport, share in SHARES.items():
            for _ in range(CLIENTS[transport]):
                client = Questioner(transport, places, keys, measures, random.Random(rng.random()))
                group.create_task(client.run(per_s * share / CLIENTS[transport], until))


def question(name: str, message_id: int) -> bytes:
    """TXT, recursion not desired, with EDNS of 1232 octets."""
    owner = dns.name.from_text(name).to_wire()
    assert owner is not None
    header = struct.pack("!HHHHHH", message_id, 0, 1, 0, 0, 1)
    return header + owner + struct.pack("!HH", 16, 1) + b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


def wrong(answer: bytes, query: bytes, floor: int, newest: int, absent: bool) -> str | None:
    """What is wrong with an answer, if anything is."""
    if answer[:2] != query[:2] or len(answer) < 12:
        return "not an answer to the question"
    rcode = answer[3] & 15
    if absent or rcode == NXDOMAIN:
        if rcode != NXDOMAIN:
            return f"a name that isn't there has rcode {rcode}"
        if not absent and floor:
            return f"NXDOMAIN, though it acknowledged {floor}"
        return None
    if rcode != NOERROR:
        return f"rcode {rcode}"
    found = NUMBER.search(answer)
    if found is None:
        return f"no number in {dns.message.from_wire(answer)}"
    if not floor <= int(found[1]) <= newest:
        return f"number {int(found[1])}, not {floor} (acknowledged by this node) to {newest}"
    return None


def _named(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "no connection"
    return "connection broke" if isinstance(error, EOFError | ConnectionError) else type(error).__name__
