"""What must hold after every event, checked as things change rather than by looking at everything.

The checks know what no node knows: every leader that ever was, every entry that was ever written
and the one log that was ever committed. From that, each safety property of figure 3 of the Raft
paper comes down to a look at what has just changed:

- *Election safety*: one leader a term, and no second vote in a term.
- *Log matching*: (index, term) names one entry with one entry before it, so it is enough to
  compare each entry, as it is written, with the first of that name.
- *Leader completeness*: a new leader has the last committed entry; by log matching, all of them.
- *State machine safety*: what is committed or applied at an index is what was so first.

And of this implementation: promises only of what is on disk, commits on a quorum of disks, one
change of the configuration at a time, limits kept, nothing forgotten or undone by a restart.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from raft_sim.kernel import Violation
from raft_sim.machine import request_id_of

from aspen.raft.log import LogCompacted, LogUnavailable
from aspen.raft.messages import ConfState, Entry, EntryKind, Message, MessageType, SnapshotMetadata
from aspen.raft.rawnode import Role

if TYPE_CHECKING:
    from raft_sim.node import Node

PROMISES: Final = frozenset({MessageType.VOTE_RESP, MessageType.APP_RESP})
"""What may be said only once what it says is on disk."""

_NO_ENTRY: Final = Entry()


class Invariants:
    """Everything that ever held, and the checks against it."""

    def __init__(self, founders: int) -> None:
        self.leaders: dict[int, int] = {}
        """Term → who led in it."""
        self.committed: list[Entry] = [_NO_ENTRY]
        """By index; the first stands for the beginning of the log."""
        self._commit_terms: list[int] = [0]
        """By index: the term of the leader that committed it."""
        self.confs: list[tuple[int, ConfState]] = []
        """(index, configuration from there on), as applied first."""
        self.founded = founders
        """Up to this index, entries say one by one who the founders are: the first of them knows at once."""
        self.refused: set[int] = set()
        """Request ids of writes that clients were told never happen."""
        self.request_index: dict[int, int] = {}
        """Request id → where it was committed."""
        self._last_leader: Node | None = None
        self._entries: dict[tuple[int, int], tuple[Entry, int | None]] = {}
        """(index, term) → the entry and the term of the one before it."""
        self._states: list[tuple[int, int]] = [(0, 0)]
        """Hash of the state after each applied index."""
        self._votes: dict[tuple[int, int], int] = {}
        """(node, term) → whom it promised its vote."""

    # --- elections ----------------------------------------------------------------------------

    def term_moved(self, node: Node) -> None:
        raft = node.raft
        if raft.term < node.seen_term:
            raise Violation("terms never go back", f"node {node.node_id}: {node.seen_term} to {raft.term}")
        if raft.term == node.seen_term and node.seen_vote:
            raise Violation(
                "one vote a term",
                f"node {node.node_id} changed its vote in term {raft.term}: {node.seen_vote} to {raft.vote}",
            )
        node.seen_term, node.seen_vote = raft.term, raft.vote

    def elected(self, node: Node) -> None:
        raft = node.raft
        term = node.led_term = raft.term
        other = self.leaders.setdefault(term, node.node_id)
        if other != node.node_id:
            raise Violation("one leader a term", f"nodes {other} and {node.node_id} both lead in term {term}")
        if node.incarnation != node.leading_incarnation.setdefault(term, node.incarnation):
            raise Violation(
                "one leader a term", f"node {node.node_id} leads in term {term} before and after a restart"
            )
        inherited = raft.log.slice(raft.log.applied + 1, raft.log.last_index + 1, 1 << 40)
        node.inherited_bytes = sum([len(entry.data) for entry in inherited])
        self._check_election(node)
        # It may have been elected unnoticed by those who have gone on since.
        last = len(self.committed) - 1
        while last > self.founded and self._commit_terms[last] >= term:
            last -= 1
        if not self._has_committed(node, last):
            raise Violation(
                "leader completeness",
                f"node {node.node_id}, elected in term {term}, lacks entry {last} "
                f"of term {self.committed[last].term}, which is committed",
            )
        if self._last_leader is None or self._last_leader.led_term < term:
            self._last_leader = node

    def _check_election(self, node: Node) -> None:
        raft = node.raft
        own = node.disk.hard_state
        configuration = raft.configuration
        for voters in (configuration.voters, configuration.voters_outgoing):
            votes = {voter for voter in voters if self._votes.get((voter, raft.term)) == node.node_id}
            if own.term == raft.term and own.vote == node.node_id:
                votes |= voters & {node.node_id}
            if voters and 2 * len(votes) <= len(voters):
                raise Violation(
                    "a leader has the votes of a quorum",
                    f"node {node.node_id} leads in term {raft.term} by {sorted(votes)} of {sorted(voters)}",
                )

    def _has_committed(self, node: Node, index: int) -> bool:
        log = node.raft.log
        if index < log.first_index - 1:
            return True  # compacted: it was applied, which is checked elsewhere
        return log.matches(index, self.committed[index].term)

    # --- the log ------------------------------------------------------------------------------

    def appended(self, node: Node, entries: tuple[Entry, ...]) -> None:
        """`node` writes these to its disk."""
        known = self._entries
        first = entries[0]
        try:
            before: int | None = node.raft.log.term(first.index - 1)
        except (LogCompacted, LogUnavailable):
            before = None
        index = first.index
        for entry in entries:
            if entry.index != index:
                raise Violation(
                    "log matching", f"node {node.node_id} writes {entry.index} where {index} is due"
                )
            index += 1
            found = known.get((entry.index, entry.term))
            if found is None:
                known[entry.index, entry.term] = (entry, before)
            elif found[0] is not entry or found[1] != before:
                self._compare(node, entry, before, *found)
            before = entry.term
            if entry.kind is not EntryKind.NORMAL:
                self._conf_change_appended(node, entry)

    def _compare(
        self, node: Node, entry: Entry, before: int | None, known: Entry, known_before: int | None
    ) -> None:
        if entry != known:
            raise Violation(
                "log matching", f"entry {entry.index} of term {entry.term} at node {node.node_id} is another"
            )
        if None not in (before, known_before) and before != known_before:
            raise Violation(
                "log matching",
                f"before entry {entry.index} of term {entry.term} node {node.node_id} has one of "
                f"term {before}, others one of term {known_before}",
            )

    def _conf_change_appended(self, node: Node, entry: Entry) -> None:
        """A leader takes no change of the configuration while another is not committed."""
        raft = node.raft
        if raft.role is not Role.LEADER or entry.term != raft.term:
            return
        low = max(len(self.committed), raft.log.first_index)
        for other in raft.log.slice(low, entry.index, 1 << 40):
            if other.kind is not EntryKind.NORMAL:
                raise Violation(
                    "one configuration change at a time",
                    f"node {node.node_id} appends {entry.index}, {other.index} is not committed",
                )

    def restarted(self, node: Node) -> None:
        """What `node` finds on its disk must be what it ever was or was told to be."""
        disk = node.disk
        hard_state = disk.hard_state
        if hard_state.term < node.durable_term or hard_state.commit < node.durable_commit:
            raise Violation("a restart forgets nothing", f"node {node.node_id} comes back with {hard_state}")
        if disk.applied < node.durable_applied:
            raise Violation("a restart forgets nothing", f"node {node.node_id} applied {disk.applied}")
        before: int | None = disk.before[1] if disk.before[0] else 0
        for index, entry in enumerate(disk.log, disk.before[0] + 1):
            found = self._entries.get((entry.index, entry.term))
            if found is None or entry.index != index:
                raise Violation("log matching", f"node {node.node_id} comes back with {entry} at {index}")
            if found[0] is not entry or found[1] != before:
                self._compare(node, entry, before, *found)
            before = entry.term
        if self._states[disk.applied] != disk.machine.state_hash:
            raise Violation("equal states", f"node {node.node_id} comes back with another state")

    # --- committing ---------------------------------------------------------------------------

    def commit_moved(self, node: Node) -> None:
        raft = node.raft
        log = raft.log
        new, old = log.committed, node.seen_commit
        if new < old:
            raise Violation("commits never go back", f"node {node.node_id}: from {old} to {new}")
        node.seen_commit = new
        committed = self.committed
        known = len(committed) - 1
        first = log.first_index
        for index in range(max(old + 1, first - 1), min(new, known) + 1):
            if log.term(index) != committed[index].term:
                raise Violation(
                    "committed entries are immutable",
                    f"node {node.node_id} commits {index} of term {log.term(index)}, "
                    f"which was committed with term {committed[index].term}",
                )
        if new > known:
            self._committed_first(node, known + 1, new)

    def _committed_first(self, node: Node, low: int, high: int) -> None:
        """`node` is the first to commit [low, high]."""
        raft = node.raft
        if high > self.founded:
            self._check_quorum(node, high)
            if raft.role is not Role.LEADER or raft.log.term(high) != raft.term:
                raise Violation(
                    "a leader commits entries of its own term",
                    f"node {node.node_id} ({raft.role.name} of term {raft.term}) commits {high} "
                    f"of term {raft.log.term(high)} first",
                )
        for entry in raft.log.slice(low, high + 1, 1 << 40):
            self.committed.append(entry)
            self._commit_terms.append(raft.term)
            if entry.kind is EntryKind.NORMAL and entry.data:
                self._request_committed(request_id_of(entry.data), entry.index)
        leader = self._last_leader
        if (
            leader is not None
            and leader.up
            and leader.led_term > raft.term
            and not self._has_committed(leader, high)
        ):
            raise Violation(
                "leader completeness",
                f"node {node.node_id} commits {high} in term {raft.term}, "
                f"but node {leader.node_id}, elected in term {leader.led_term}, lacks it",
            )

    def _request_committed(self, request_id: int, index: int) -> None:
        other = self.request_index.setdefault(request_id, index)
        if other != index:
            raise Violation("a write happens once", f"request {request_id} at {other} and at {index}")
        if request_id in self.refused:
            raise Violation("a refused write never happens", f"request {request_id} is committed at {index}")

    def _check_quorum(self, node: Node, index: int) -> None:
        raft = node.raft
        term = raft.log.term(index)
        configuration = raft.configuration
        for voters in (configuration.voters, configuration.voters_outgoing):
            holders = [voter for voter in voters if node.world.has_durably(voter, index, term)]
            if voters and len(holders) <= len(voters) // 2:
                raise Violation(
                    "a commit is on a quorum of disks",
                    f"node {node.node_id} commits {index} of term {term}: only {sorted(holders)} "
                    f"of {sorted(voters)} have it on disk",
                )

    def acknowledged(self, request_id: int) -> None:
        """A client was told that its write happened."""
        if request_id not in self.request_index:
            raise Violation("only committed writes are acknowledged", f"request {request_id}")

    def write_refused(self, request_id: int) -> None:
        """A client was told that its write never happens."""
        self.refused.add(request_id)
        if request_id in self.request_index:
            raise Violation("a refused write never happens", f"request {request_id} was committed")

    # --- applying -----------------------------------------------------------------------------

    def applied(self, node: Node, entry: Entry) -> None:
        """`node` has just applied `entry`."""
        index = entry.index
        if index != node.applied_seen + 1:
            raise Violation(
                "entries are applied in order", f"node {node.node_id}: {index} after {node.applied_seen}"
            )
        node.applied_seen = index
        if index >= len(self.committed) or (
            self.committed[index] is not entry and self.committed[index] != entry
        ):
            raise Violation(
                "only committed entries are applied", f"node {node.node_id} applies {entry} at {index}"
            )
        if index > node.disk.last_index():
            raise Violation(
                "an entry is on disk before it is applied", f"node {node.node_id} applies {index}"
            )
        state = node.disk.machine.state_hash
        if index == len(self._states):
            self._states.append(state)
        elif self._states[index] != state:
            raise Violation("equal states", f"at index {index} node {node.node_id} has another state")

    def installed(self, node: Node, metadata: SnapshotMetadata) -> None:
        """`node` has just replaced its state by a snapshot."""
        node.applied_seen = metadata.index
        if metadata.index >= len(self.committed) or self.committed[metadata.index].term != metadata.term:
            raise Violation("only committed entries are applied", f"node {node.node_id} installs {metadata}")
        if self._states[metadata.index] != node.disk.machine.state_hash:
            raise Violation(
                "equal states", f"node {node.node_id} installed another state at {metadata.index}"
            )

    def restored(self, node: Node, metadata: SnapshotMetadata) -> None:
        """`node` has just taken on a snapshot, and will install it."""
        expected = self.conf_at(metadata.index)
        for found in (metadata.conf_state, node.raft.configuration.conf_state()):
            if found != expected:
                raise Violation(
                    "a snapshot brings its configuration",
                    f"node {node.node_id} has {found} from index {metadata.index} on, not {expected}",
                )

    # --- the configuration --------------------------------------------------------------------

    def conf_at(self, index: int) -> ConfState:
        position = bisect_right(self.confs, index, key=lambda item: item[0])
        return self.confs[position - 1][1] if position else ConfState()

    def conf_applied(self, node: Node, index: int, conf_state: ConfState) -> None:
        """`node` switches to the configuration that the entry at `index` makes."""
        if index < self.founded:
            return
        if not self.confs or index > self.confs[-1][0]:
            self.confs.append((index, conf_state))
            node.world.configuration_changed(conf_state)
        elif self.conf_at(index) != conf_state:
            raise Violation(
                "equal configurations",
                f"from index {index} on node {node.node_id} has {conf_state}, not {self.conf_at(index)}",
            )
        raft = node.raft
        if raft.role is Role.LEADER and node.node_id not in raft.configuration.all_voters:
            raise Violation("a removed leader steps down", f"node {node.node_id} leads in term {raft.term}")

    # --- messages and limits ------------------------------------------------------------------

    def promised(self, node: Node, message: Message) -> None:
        """`node` sends a message that promises something durable."""
        if message.reject:
            return
        durable = node.disk.hard_state
        if durable.term < message.term:
            raise Violation(
                "no response precedes its persist",
                f"node {node.node_id} answers in term {message.term}, on its disk is {durable.term}",
            )
        if message.type is MessageType.VOTE_RESP:
            if durable.term == message.term and durable.vote != message.to:
                raise Violation(
                    "no response precedes its persist",
                    f"node {node.node_id} votes for {message.to} in term {message.term}, "
                    f"on its disk is a vote for {durable.vote}",
                )
            voted = self._votes.setdefault((node.node_id, message.term), message.to)
            if voted != message.to:
                raise Violation(
                    "one vote a term",
                    f"node {node.node_id} votes for {voted} and {message.to} in term {message.term}",
                )
        elif message.index > node.disk.last_index() and node.disk.last_term() <= message.term:
            # (What a later leader has overwritten before it got to the disk is nobody's loss: that
            # leader lacks it, so it can't be committed any more, whoever still counts it.)
            raise Violation(
                "no response precedes its persist",
                f"node {node.node_id} has {message.index}, it says, but the log on its disk "
                f"ends at {node.disk.last_index()}",
            )

    def limits(self, node: Node) -> None:
        """A leader keeps to its windows and to the limit on uncommitted entries."""
        profile = node.world.profile
        raft = node.raft
        for node_id, progress in raft.progress.items():
            if len(progress.inflights) > profile.max_inflight_messages:
                raise Violation("windows hold", f"{len(progress.inflights)} messages to {node_id}")
            if not progress.match < progress.next:
                raise Violation("match < next", f"{progress.match}, {progress.next} for {node_id}")

    def uncommitted(self, node: Node) -> None:
        """`node` leads and has just taken a proposal."""
        raft = node.raft
        low = max(len(self.committed), raft.log.first_index)
        entries = raft.log.slice(low, raft.log.last_index + 1, 1 << 40)
        sizes = [len(entry.data) for entry in entries if entry.term == raft.term]
        taken, before = sum(sizes[-node.batch_size :]), sum(sizes[: -node.batch_size])
        # What it found uncommitted when it was elected is taken off its count as it is applied. A
        # proposal that finds nothing pending, as it thinks, may be of any size.
        uncounted = node.inherited_bytes
        limit = node.world.profile.max_uncommitted_bytes + uncounted
        if taken and before > uncounted and before + taken > limit:
            raise Violation("the uncommitted limit holds", f"node {node.node_id}: {before} and {taken} bytes")
