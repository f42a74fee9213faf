"""What snapshots have to do with the core: when one is offered, fetched, shown to it and installed.

The core hears of a snapshot when its content is here, and not before: until then it goes on as a
member that lags. An offer that ends, because nobody fetched it or the member it was for began anew, is
reported to the core, so that it offers again.

Raft paper §7. The transfer itself is in `snapshots`, the rename that installs it in `writer`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from aspen.errors import AspenError, InvariantViolation
from aspen.raft.messages import HardState, Message, Snapshot
from aspen.raft.rawnode import RawNode
from aspen.raft.snapshots import Incoming, OpenStream, SnapshotIntake, SnapshotOffers
from aspen.raft.storage import Installed, LmdbLog
from aspen.raft.writer import Install
from aspen.state.store import Store

log = structlog.get_logger("aspen.raft")


class CatchUp:
    """One node's snapshots, both ways. Called on the loop's thread."""

    def __init__(
        self,
        raw: RawNode,
        store: Store,
        log_storage: LmdbLog,
        *,
        open_stream: OpenStream,
        clock: Callable[[], float],
        step: Callable[[Message], None],
        wake: Callable[[], None],
    ) -> None:
        """`step` shows the core a message; `wake` has the driver see to what follows."""
        self.offers = SnapshotOffers(store, log_storage, raw.node_id, clock, self._withdrawn)
        self.intake = SnapshotIntake(store, open_stream, self._received)
        self._raw = raw
        self._store = store
        self._log_storage = log_storage
        self._step = step
        self._wake = wake
        log_storage.offer_snapshot = self.offers.offer

    def needs(self, message: Message) -> bool:
        """Whether the core could take this snapshot. If not, it answers the leader at once, who may not
        know how far this node is, as after a restart."""
        if message.term < self._raw.term or message.snapshot is None:
            return False
        return message.snapshot.metadata.index > self._raw.commit_index

    def fetch(self, message: Message) -> None:
        """A SNAP message has come: get what it speaks of."""
        try:
            self.intake.begin(message)
        except AspenError as error:
            log.warning("a snapshot can't be fetched", sender=message.sender, reason=str(error))

    def _received(self, incoming: Incoming) -> None:
        message, raw = incoming.message, self._raw
        if message.term < raw.term and raw.leader_id:
            # The leader changed meanwhile. What was fetched is committed state all the same, and
            # the new leader has it too: take it in the new leader's name.
            message = msgspec.structs.replace(message, term=raw.term, sender=raw.leader_id)
        self._step(message)
        if raw.pending_snapshot is None:
            log.info("the snapshot is not needed any more")
            self.intake.discard()
        self._wake()

    def _withdrawn(self, node_id: int) -> None:
        self._raw.report_snapshot(node_id, failed=True)
        self._wake()

    def install_of(self, snapshot: Snapshot, hard_state: HardState) -> Install:
        """The writer's work for a snapshot that the core has taken in."""
        incoming = self.intake.incoming
        if incoming is None:
            raise InvariantViolation("the core took in a snapshot that was not received")
        metadata = snapshot.metadata
        own = Installed(metadata.index, metadata.term, hard_state, incoming.reference.roster)
        return Install(incoming.environment, incoming.tables, incoming.folder, own)

    def switch(self, install: Install) -> None:
        """Read the store from the installed environment from now on, while the writer waits: no
        transaction of the old one is open on this thread, and the offers' are ended here."""
        own = install.own
        self.offers.close()
        self._store.switch(install.folder)
        self._log_storage.replaced(own.index, own.term)
        self.intake.installed()
        log.info("snapshot installed", index=own.index, members=[m.node_id for m in own.roster.members])
