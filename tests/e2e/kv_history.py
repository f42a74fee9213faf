"""A history of the key-value store, and its judgement by the store's own order.

Every answer tells a revision, and a watch from the first revision tells what each of them changed: an
order of all writes. The history is linearizable if that order explains every answer (what was
read at a revision is what the changes up to it make) and follows real time (what was called
after something ended has no smaller revision). No search is needed: the order is the witness.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass

from aspen.client import Changes, NodeClient, compare, op_get, op_put
from aspen.errors import ClientCompareFailed, ClientError, ClientNotFound, ClientOutcomeUnknown

KEYS = [b"h/%d" % n for n in range(4)]
ABSENT = b""
"""What a key without a value is taken to hold; no write has this value."""


@dataclass
class Told:
    """One call and what its client was told."""

    client: int
    node: int
    kind: str
    key: bytes
    called: float
    ended: float = 0.0
    outcome: str = "pending"
    """`ok`, `refused` (certainly not done), `unknown`."""
    revision: int = 0
    found: bytes | None = None
    """What a read, or a comparison that failed, was told is there."""
    wrote: bytes | None = None
    """What it would make of the key; ABSENT for a delete."""
    stale: bool = False


class HistoryOfKeys:
    """Clients that read and write the same few keys through all nodes, and remember."""

    def __init__(self, addrs: list[str], seed: int) -> None:
        self._addrs = addrs
        self._rng = random.Random(seed)
        self._values = itertools.count(1)
        self.told: list[Told] = []

    async def client(self, number: int, until: asyncio.Event) -> None:
        """One operation after the other, each through whichever node, sent once."""
        nodes = [NodeClient(addr, timeout_ms=2_500) for addr in self._addrs]
        for node in nodes:
            await node.__aenter__()
        try:
            while not until.is_set():
                at = self._rng.randrange(len(nodes))
                if not await self._operate(number, at, nodes[at]):
                    await asyncio.sleep(0.02)
        finally:
            for node in nodes:
                await node.__aexit__(None, None, None)

    async def _operate(self, number: int, at: int, node: NodeClient) -> bool:
        rng = self._rng
        kind = rng.choice(["read", "read", "stale", "put", "put", "cas", "txn", "delete"])
        told = Told(number, at, kind, rng.choice(KEYS), asyncio.get_running_loop().time())
        self.told.append(told)
        try:
            await self._call(told, node)
            told.outcome = "ok"
        except ClientOutcomeUnknown:
            told.outcome = "unknown"
        except ClientError:
            told.outcome = "refused"
        told.ended = asyncio.get_running_loop().time()
        return told.outcome == "ok"

    async def _call(self, told: Told, node: NodeClient) -> None:
        key = told.key
        if told.kind in ("read", "stale"):
            told.stale = told.kind == "stale"
            consistency = "stale" if told.stale else "consistent"
            try:
                query = {"consistency": consistency, "prefix": key}
                answer = await node.call("GET", "/v1/kv", query)
            except ClientNotFound:
                raise AssertionError("a scan finds nothing, but is there") from None
            told.revision = answer.revision
            from aspen.client import KvScan

            entries = answer.read(KvScan).entries
            told.found = entries[0].value if entries else ABSENT
            return
        told.wrote = b"%d" % next(self._values)
        if told.kind == "put":
            told.revision = (await node.kv_put(key, told.wrote)).revision
        elif told.kind == "delete":
            told.wrote = ABSENT
            try:
                told.revision = (await node.kv_delete(key)).revision
            except ClientNotFound:
                told.wrote = None  # nothing was changed, at a revision it does not tell
        elif told.kind == "cas":
            await self._compare_and_swap(told, node)
        else:
            result = await node.kv_txn([compare(key, exists=True)], [op_put(key, told.wrote)], [op_get(key)])
            told.revision = result.revision
            if not result.succeeded:
                told.wrote, told.found = None, ABSENT

    async def _compare_and_swap(self, told: Told, node: NodeClient) -> None:
        guess = [other.wrote for other in self.told[-30:] if other.key == told.key and other.wrote]
        expected = self._rng.choice(guess) if guess else b"none"
        assert told.wrote is not None
        try:
            told.revision = (await node.kv_put(told.key, told.wrote, if_value=expected)).revision
        except ClientCompareFailed:
            told.wrote = None


def judge(told: list[Told], changes: list[Changes], first: int) -> list[str]:
    """What is wrong with the history, given every change after revision `first`, in order."""
    problems: list[str] = []
    revisions = [batch.revision for batch in changes]
    if revisions != list(range(first + 1, first + 1 + len(changes))):
        problems.append("the watch skipped or repeated a revision")
    states: dict[int, dict[bytes, bytes]] = {first: {}}
    state: dict[bytes, bytes] = {}
    written: dict[bytes, int] = {}
    for batch in changes:
        for change in batch.changes:
            state = {**state, change.key: change.value if change.type == "put" else ABSENT}
            if change.type == "put":
                if change.value in written:
                    problems.append(f"{change.value!r} was written twice")
                written[change.value] = batch.revision
        states[batch.revision] = state
    for one in told:
        problems += _explained(one, states, written)
    return problems + _in_real_time(told) + _monotonic(told)


def _explained(one: Told, states: dict[int, dict[bytes, bytes]], written: dict[bytes, int]) -> list[str]:
    if one.outcome == "refused" and one.wrote and one.wrote in written:
        return [f"{one}: refused, and written all the same"]
    if one.outcome != "ok" or not one.revision:
        return []
    state = states.get(one.revision)
    if state is None:
        return [f"{one}: there was no such revision"]
    there = state.get(one.key, ABSENT)
    if one.wrote is not None and there != one.wrote:
        return [f"{one}: at its revision the key is {there!r}"]
    if one.wrote is None and one.found is not None and there != one.found:
        return [f"{one}: at the revision it read, the key is {there!r}"]
    return []


def _in_real_time(told: list[Told]) -> list[str]:
    """What was called after something ended must not be before it."""
    done = [one for one in told if one.outcome == "ok" and one.revision and not one.stale]
    ends = sorted(done, key=lambda one: one.ended)
    problems: list[str] = []
    newest, at = 0, 0
    for one in sorted(done, key=lambda each: each.called):
        while at < len(ends) and ends[at].ended < one.called:
            newest = max(newest, ends[at].revision)
            at += 1
        if one.revision < newest or (one.revision == newest and one.wrote is not None):
            problems.append(f"{one}: something that had ended before is at revision {newest}")
    return problems


def _monotonic(told: list[Told]) -> list[str]:
    """Stale reads through one node, by one client one after the other, never go back."""
    newest: dict[tuple[int, int], int] = {}
    problems: list[str] = []
    for one in told:
        if one.outcome == "ok" and one.stale:
            place = (one.client, one.node)
            if one.revision < newest.get(place, 0):
                problems.append(f"{one}: an earlier stale read through the same node saw more")
            newest[place] = one.revision
    return problems
