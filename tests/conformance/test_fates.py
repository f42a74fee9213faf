"""What a change of the membership is said to have come to is what it came to, whatever befalls the members.

Each story is decided by a seed: nodes crash, come back, are cut off, while one change after the other is
asked of whoever is there. Each adds a node that nobody has heard of, so that its traces can be told apart.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

import pytest

from aspen.api import KvClient, WriteCommand
from aspen.deterministic import DeterministicCluster, DeterministicMember
from aspen.errors import ControlPlaneError, KeyValueStoreError, NoLeader, OutcomeUnknown
from aspen.identity import Identity
from aspen.raft import pending
from aspen.raft.envelope import MARKER
from aspen.raft.plans import AddLearner
from aspen.state.store import STATE_TABLES

DONE, REFUSED, UNKNOWN = "done", "refused", "unknown"
FOUNDERS = (1, 2, 3)


class Story:
    """One cluster, what befell it, and what was said about each change."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cluster = DeterministicCluster(FOUNDERS, seed=seed)
        self.told: dict[bytes, str] = {}
        """The key of each node whose addition was asked for, and what came of it."""
        self.rivals: dict[bytes, asyncio.Future[Any]] = {}
        """The same of changes that nobody waits for."""
        self.seen: set[bytes] = set()
        """Keys that ever were in a membership."""
        self.written: dict[str, str] = {}
        """Keys of the store whose last write was acknowledged, and it."""
        self.doubtful: set[str] = set()
        self._next_id = 10
        for member in self.cluster:
            self._watch(member)

    def _watch(self, member: DeterministicMember) -> None:
        change = member._change

        def watched(*arguments: object) -> None:
            change(*arguments)  # type: ignore[arg-type]
            self.seen.update(each.endpoint_id for each in member.roster.members)

        member._change = watched  # type: ignore[method-assign, assignment]

    def somebody(self) -> DeterministicMember:
        up = [member for member in self.cluster if member.is_up and member.node_id in FOUNDERS]
        return self.rng.choice(up)

    # --- what befalls them --------------------------------------------------------------------

    def trouble(self) -> None:
        """Something happens soon, in the midst of what is asked next."""
        delay = self.rng.uniform(0, self.rng.choice([0.01, 0.4]))
        troubles = [*2 * [self._crash], self._cut, *2 * [self._heal], *3 * [self._rival]]
        befalls = self.rng.choice(troubles)
        self.cluster.time.call_later(delay, befalls)

    def _crash(self) -> None:
        up = [n for n in FOUNDERS if self.cluster[n].is_up]
        if len(up) > 1:
            victim = self.rng.choice(up)
            self.cluster.crash(victim)
            self.cluster.time.call_later(self.rng.uniform(0.05, 1.5), self._restart, victim)

    def _restart(self, node_id: int) -> None:
        if not self.cluster[node_id].is_up:
            self.cluster.restart(node_id)

    def _cut(self) -> None:
        alone = self.rng.choice(FOUNDERS)
        self.cluster.partition({alone}, {member.node_id for member in self.cluster} - {alone})

    def _heal(self) -> None:
        self.cluster.heal()

    def _rival(self) -> None:
        """Another change, from another member, at the same time."""
        member = self.somebody()
        key = Identity.from_seed(self.rng.randbytes(32)).endpoint_id
        self._next_id += 1
        try:
            change = AddLearner(self._next_id, key, ()).change(member.roster)
        except ControlPlaneError:
            return
        if member.roster.members and not member.removed and change is not None:
            self.rivals[key] = member.proposals.add(MARKER, change)
            member.settle()

    # --- what is asked ------------------------------------------------------------------------

    async def ask(self) -> None:
        match self.rng.randrange(6):
            case 0 | 1:
                await self._add()
            case 2:
                await self._fate(self.somebody().control.transfer_leader(self.rng.choice(FOUNDERS), 800))
            case 3:
                learners = [m.node_id for m in self.somebody().roster.members if m.node_id >= 10]
                if learners:
                    await self._fate(self.somebody().control.remove(self.rng.choice(learners), 800))
            case _:
                await self._write()

    async def _add(self) -> None:
        key = Identity.from_seed(self.rng.randbytes(32)).endpoint_id
        self._next_id += 1
        control = self.somebody().control
        self.told[key] = await self._fate(control.add_learner(self._next_id, key, (), timeout_ms=800))

    async def _fate(self, attempt: Awaitable[None]) -> str:
        try:
            await attempt
        except ControlPlaneError.OutcomeUnknown:
            return UNKNOWN
        except ControlPlaneError:
            return REFUSED
        return DONE

    async def _write(self) -> None:
        key, value = f"k{self.rng.randrange(4)}", str(self.rng.random())
        try:
            await KvClient(self.somebody()).write(WriteCommand.Set(key, value))
        except KeyValueStoreError.Timeout:
            return  # certainly not written
        except KeyValueStoreError:
            self.doubtful.add(key)
            self.written.pop(key, None)
            return
        self.written[key] = value
        self.doubtful.discard(key)

    # --- the end ------------------------------------------------------------------------------

    async def end(self) -> None:
        """All is well again: everybody up, nobody cut off, and time to agree."""
        cluster = self.cluster
        cluster.run_for(2_000)
        cluster.heal()
        for node_id in FOUNDERS:
            self._restart(node_id)
        cluster.run_for(3_000)
        for node_id in FOUNDERS:
            await cluster[node_id].read_barrier()
        for key, future in self.rivals.items():
            assert future.done()
            match future.exception():
                case None:
                    self.told[key] = DONE if future.result() is True else REFUSED
                case NoLeader():
                    self.told[key] = REFUSED
                case OutcomeUnknown():
                    self.told[key] = UNKNOWN
                case error:
                    raise AssertionError(f"not a fate: {error!r}")

    def check(self) -> None:
        members = [self.cluster[node_id] for node_id in FOUNDERS]
        for key, told in self.told.items():
            if told == DONE:
                assert key in self.seen
            elif told == REFUSED:
                assert key not in self.seen
        assert len({member.roster for member in members}) == 1
        assert members[0].roster.conf_state.voters == FOUNDERS
        tables = [member._store.tables for member in members]
        for name in STATE_TABLES:
            assert tables[0][name].pairs == tables[1][name].pairs == tables[2][name].pairs
        for key, value in self.written.items():
            entry = members[0].kv.get(key.encode())
            assert entry is not None
            assert entry.value == value.encode()


async def play(seed: int, steps: int = 40) -> Story:
    story = Story(seed)
    cluster = story.cluster
    await cluster[1].control.found(cluster.founders())
    for _ in range(steps):
        if story.rng.random() < 0.5:
            story.trouble()
        await story.ask()
        cluster.run_for(story.rng.randrange(200))
    await story.end()
    return story


@pytest.mark.parametrize("seed", range(25))
async def test_no_fate_is_a_lie(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RAFT_PROPOSE_MS", 600)
    monkeypatch.setattr(pending, "RAFT_READ_MS", 600)
    story = await play(seed)
    story.check()


async def test_the_stories_are_eventful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every outcome occurs, or the test above would prove little."""
    monkeypatch.setattr(pending, "RAFT_PROPOSE_MS", 600)
    monkeypatch.setattr(pending, "RAFT_READ_MS", 600)
    outcomes = {told for seed in range(12) for told in (await play(seed)).told.values()}
    assert outcomes == {DONE, REFUSED, UNKNOWN}
