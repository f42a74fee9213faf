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

from aspen.client import Changes, KvScan, NodeClient, compare, op_get, op_put
from aspen.errors import ClientCompareFailed, ClientError, ClientNotFound, ClientOutcomeUnknown

KEYS = [b"h/%d" % n for n in range(4)]
ABSENT = b""
"""What a key without a value is taken to hold; no write has this value."""
PRESENT = b"*"
"""Of `Told.before`: any value, but one; no write has this value either."""
KINDS = ("read", "read", "leader", "stale", "stale", "monotonic", "put", "put", "put", "cas", "txn", "delete")
READS = {"read": "consistent", "leader": "leader", "stale": "stale", "monotonic": "stale"}
"""Kind → the consistency asked for; `monotonic` also names the newest revision that its client saw."""


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
    before: bytes | None = None
    """What must have been there just before it was written, if it may be written only then."""
    stale: bool = False
    floor: int = 0
    """The revision that a monotonic read asked to see at least."""


class HistoryOfKeys:
    """Clients that read and write the same few keys through all nodes, and remember."""

    def __init__(
        self,
        addrs: list[str],
        seed: int,
        *,
        token: str | None = None,
        reads: str = "consistent",
        pause_s: float = 0.0,
    ) -> None:
        """With `reads="stale"`, consistent reads are asked for as stale ones: that must be found out.
        Each client rests for `pause_s` between two operations."""
        self._addrs = addrs
        self._token = token
        self._asked = READS | {"read": reads}
        self._pause_s = pause_s
        self._rng = random.Random(seed)
        self._values = itertools.count(1)
        self._newest: dict[int, int] = {}
        """Client → the newest revision it was told of."""
        self.told: list[Told] = []

    async def client(self, number: int, until: asyncio.Event) -> None:
        """One operation after the other, each through whichever node, sent once."""
        nodes = [NodeClient(addr, token=self._token, timeout_ms=2_500) for addr in self._addrs]
        for node in nodes:
            await node.__aenter__()
        try:
            while not until.is_set():
                at = self._rng.randrange(len(nodes))
                done = await self._operate(number, at, nodes[at])
                await asyncio.sleep(max(self._pause_s, 0.0 if done else 0.02))
        finally:
            for node in nodes:
                await node.__aexit__(None, None, None)

    async def _operate(self, number: int, at: int, node: NodeClient) -> bool:
        rng = self._rng
        kind = rng.choice(KINDS)
        told = Told(number, at, kind, rng.choice(KEYS), asyncio.get_running_loop().time())
        if kind == "monotonic":
            told.floor = self._newest.get(number, 0)
        self.told.append(told)
        try:
            await self._call(told, node)
            told.outcome = "ok"
            self._newest[number] = max(self._newest.get(number, 0), told.revision)
        except ClientOutcomeUnknown:
            told.outcome = "unknown"
        except ClientError:
            told.outcome = "refused"
        told.ended = asyncio.get_running_loop().time()
        return told.outcome == "ok"

    async def _call(self, told: Told, node: NodeClient) -> None:
        key = told.key
        if told.kind in READS:
            await self._read(told, node)
            return
        told.wrote = b"%d" % next(self._values)
        if told.kind == "put":
            told.revision = (await node.kv_put(key, told.wrote)).revision
        elif told.kind == "delete":
            told.wrote, told.before = ABSENT, PRESENT
            try:
                told.revision = (await node.kv_delete(key)).revision
            except ClientNotFound:
                told.wrote = None  # nothing was changed, at a revision it does not tell
        elif told.kind == "cas":
            await self._compare_and_swap(told, node)
        else:
            result = await node.kv_txn([compare(key, exists=True)], [op_put(key, told.wrote)], [op_get(key)])
            told.revision, told.before = result.revision, PRESENT
            if not result.succeeded:
                told.wrote, told.found = None, ABSENT

    async def _read(self, told: Told, node: NodeClient) -> None:
        """By a scan: it tells the revision of an absent key as well."""
        told.stale = READS[told.kind] == "stale"
        query: dict[str, str | bytes] = {"consistency": self._asked[told.kind], "prefix": told.key}
        if told.floor:
            query["min_revision"] = str(told.floor)
        try:
            answer = await node.call("GET", "/v1/kv", query)
        except ClientNotFound:
            raise AssertionError("a scan finds nothing, but is there") from None
        told.revision = answer.revision
        entries = answer.read(KvScan).entries
        told.found = entries[0].value if entries else ABSENT

    async def _compare_and_swap(self, told: Told, node: NodeClient) -> None:
        guess = [other.wrote for other in self.told[-30:] if other.key == told.key and other.wrote]
        expected = self._rng.choice(guess) if guess else b"none"
        assert told.wrote is not None
        told.before = expected
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
    if one.wrote is not None and one.before is not None:
        was = states.get(one.revision - 1, {}).get(one.key, ABSENT)
        if was == ABSENT or one.before not in (PRESENT, was):
            return [f"{one}: just before it the key was {was!r}"]
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
    """Stale reads through one node, by one client one after the other, never go back; those that name a
    revision don't, through any node."""
    newest: dict[tuple[int, int], int] = {}
    problems: list[str] = []
    for one in told:
        if one.outcome == "ok" and one.stale:
            place = (one.client, one.node)
            if one.revision < newest.get(place, 0):
                problems.append(f"{one}: an earlier stale read through the same node saw more")
            newest[place] = one.revision
            if one.revision < one.floor:
                problems.append(f"{one}: its client had seen more, and said so")
    return problems
