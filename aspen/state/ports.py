"""The small Protocols through which request handlers reach the replicated state.

A handler (HTTP, DNS update, …) holds a `Proposer` to write and readers over the local replica
to read. It never sees Raft, LMDB or the network, so it can be hosted by another process later.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aspen.state.commands import Command, Result


class Consistency(StrEnum):
    """How fresh a read must be (docs/architecture.md, "Consistency")."""

    STALE = "stale"
    """The local replica as it is: fastest, works in a minority."""
    CONSISTENT = "consistent"
    """Linearizable: a ReadIndex barrier, then the local replica."""
    LEADER = "leader"
    """Linearizable and only on the leader, under its lease; `NotLeader` elsewhere."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old an answer from the local replica may be."""

    applied_index: int
    leader_id: int
    """Node id of the leader known here; 0 when none is."""
    last_contact_ms: int
    """Milliseconds since this node heard from a leader: 0 on the leader, -1 if it never did."""


class Proposer(Protocol):
    """The way to write, and to wait until a local read is fresh enough."""

    async def propose(self, command: Command) -> Result:
        """Replicate `command`; return its result once it is durable on a quorum and applied here.

        Raises `NoLeader`, `Overloaded`, `NoRoom` (certainly not written) or `OutcomeUnknown`.
        """
        ...

    async def barrier(self, consistency: Consistency) -> None:
        """Return once a read of the local replica satisfies `consistency`.

        Raises `NoLeader`, `NotLeader` or `Overloaded`.
        """
        ...

    def freshness(self) -> Freshness: ...
