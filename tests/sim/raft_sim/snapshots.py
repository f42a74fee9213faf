"""Snapshots between simulated nodes: offered by a leader, fetched by a member that lags.

As in `aspen.raft.snapshots`: a SNAP message speaks of a state that is fetched beside it, one at a
time, and the core sees the message only when the state is here; an offer that was not taken up is
reported to the leader's core after a while. A profile may also have snapshots travel inside their
messages, and several at once, as the core allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from raft_sim.kernel import TICK

from aspen.raft.messages import Message

if TYPE_CHECKING:
    from raft_sim.process import Process

FETCH: Final = 3 * TICK
"""How long it takes at most to fetch a snapshot."""
OFFER: Final = 20 * TICK
"""After that, a leader gives up a snapshot that it has offered."""


class Snapshots:
    """Those that one process offers, and the one that it fetches."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._random = process.node.random
        self._fetching: Message | None = None

    def offered(self, message: Message) -> None:
        """A SNAP message leaves: its receiver has some time to fetch what it speaks of."""
        told = self._world.profile.snapshot_told
        delay = self._random.randrange(2 * FETCH) if told else OFFER
        self._world.kernel.schedule(delay, self._on_offer_end, message.to, not told)

    def _on_offer_end(self, to: int, failed: bool) -> None:
        process = self._process
        if process.alive and not process.defers(self._on_offer_end, to, failed):
            process.raw.report_snapshot(to, failed)
            process.wake()

    def fetch(self, message: Message) -> None:
        """Fetch what a SNAP message speaks of, unless another is being fetched or installed."""
        if message.term >= self._process.raft.term and self._fetching is None:
            self._fetching = message
            self._world.kernel.schedule(self._random.randrange(FETCH), self._on_fetched, message)

    def _on_fetched(self, message: Message, _: object) -> None:
        process = self._process
        if not process.alive or process.defers(self._on_fetched, message):
            return
        if not self._world.network.reaches(message.sender, process.node.node_id):
            self._fetching = None
            return
        raft = process.raft
        if message.term < raft.term and raft.leader_id:
            # Committed state is committed state: take it in the new leader's name.
            message = msgspec.structs.replace(message, term=raft.term, sender=raft.leader_id)
        process.step(message)
        if process.raw.pending_snapshot is None:
            self._fetching = None

    def installed(self) -> None:
        self._fetching = None
