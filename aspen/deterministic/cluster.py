"""The members of a deterministic cluster, the network between them, and what can befall both."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import blake3

from aspen.deterministic.member import DeterministicMember
from aspen.deterministic.time import SimulatedTime
from aspen.errors import ControlPlaneError
from aspen.identity import Identity
from aspen.limits import RAFT_MEMBERS
from aspen.raft.messages import Message
from aspen.raft.plans import Founder
from aspen.raft.rawnode import Role

_DELAY_MS: Final = (0.5, 3.0)
"""Between which a message arrives. Messages from one member to another keep their order."""


class DeterministicCluster:
    """See the package's docstring. One asyncio task at a time makes time pass in it."""

    def __init__(self, node_ids: Iterable[int] = (1,), *, seed: int = 0) -> None:
        """Members that belong to no cluster yet: `control.found` (or `RaftControlClient.init`) comes next."""
        self.time = SimulatedTime()
        self._seed = seed
        self._rng = random.Random(seed)  # noqa: S311  determinism, not secrecy
        self._members: dict[int, DeterministicMember] = {}
        self._cut: set[tuple[int, int]] = set()
        self._arrives_at: dict[tuple[int, int], float] = {}
        for node_id in node_ids:
            self.add(node_id)

    def __getitem__(self, node_id: int) -> DeterministicMember:
        return self._members[node_id]

    def __iter__(self) -> Iterator[DeterministicMember]:
        return iter(list(self._members.values()))

    @property
    def leader(self) -> DeterministicMember | None:
        """Who leads in the latest term, if anyone does."""
        leaders = [member for member in self if member.is_up and member.role is Role.LEADER]
        return max(leaders, key=lambda member: member.term, default=None)

    def founders(self, *node_ids: int) -> list[Founder]:
        """These members, or all, as `control.found` takes them."""
        members = [self[node_id] for node_id in node_ids or sorted(self._members)]
        return [(m.node_id, m.endpoint_id, ((m.host, m.port),)) for m in members]

    def add(self, node_id: int) -> DeterministicMember:
        """A node that belongs to no cluster; in place of one with the same id, with another key."""
        if node_id <= 0 or (node_id not in self._members and len(self._members) >= 2 * RAFT_MEMBERS):
            raise ControlPlaneError.InvalidRequest(f"no room for a node {node_id}")
        old = self._members.get(node_id)
        if old is not None and old.is_up:
            old.crash()
        seed = blake3.blake3(b"%d %d %d" % (self._seed, node_id, self._rng.getrandbits(64))).digest()
        rng = random.Random(self._rng.getrandbits(64))  # noqa: S311
        member = DeterministicMember(node_id, Identity.from_seed(seed), self.time, rng, self._send)
        self._members[node_id] = member
        return member

    # --- what befalls them --------------------------------------------------------------------

    def run_for(self, duration_ms: int) -> None:
        """Let time pass."""
        self.time.run_for(duration_ms)

    def crash(self, node_id: int) -> None:
        self[node_id].crash()

    def restart(self, node_id: int) -> None:
        """Up again, with what it had on disk."""
        self[node_id].start()

    def partition(self, *groups: Iterable[int]) -> None:
        """Only members of one group hear each other; whoever is in none hears nobody."""
        together = {(a, b) for group in map(frozenset, groups) for a in group for b in group}
        self._cut = {(a, b) for a in self._members for b in self._members if (a, b) not in together}

    def heal(self) -> None:
        self._cut = set()

    # --- the network --------------------------------------------------------------------------

    def _send(self, sender: DeterministicMember, messages: Sequence[Message]) -> None:
        for message in messages:
            link = (sender.node_id, message.to)
            delay = self._rng.uniform(*_DELAY_MS) / 1_000
            arrives_at = max(self.time.time() + delay, self._arrives_at.get(link, 0.0))
            self._arrives_at[link] = arrives_at
            self.time.call_later(arrives_at - self.time.time(), self._deliver, sender, message)

    def _deliver(self, sender: DeterministicMember, message: Message) -> None:
        receiver = self._members.get(message.to)
        if receiver is None or not receiver.is_up or (sender.node_id, message.to) in self._cut:
            return
        if self._members.get(sender.node_id) is not sender:
            return  # replaced since
        roster = receiver.roster
        bound = roster.member(sender.node_id)
        if bound is not None and bound.endpoint_id != sender.endpoint_id:
            return  # under a node id that is another key's
        if roster.has_removed(sender.endpoint_id) and receiver.leader_id:
            sender.told_removed()
        else:
            receiver.receive(message)
