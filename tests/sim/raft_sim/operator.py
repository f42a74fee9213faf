"""The operator: changes who the members are, hands over leadership, compacts logs.

Grows the cluster to seven members and shrinks it to three again, by simple and joint changes of
voters and learners. Members whose disk is beyond use are removed first of all. A node that was
removed lingers for a while, as it may not know yet; then it is wiped for good: who joins is always
new, with an identity of its own and an empty disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raft_sim.kernel import Handler

from aspen.raft.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    EntryKind,
)

if TYPE_CHECKING:
    from raft_sim.node import Node
    from raft_sim.world import World

MOST_MEMBERS: Final = 7
FEWEST_VOTERS: Final = 3


class Operator:
    """Runs the cluster of a world, at its profile's intervals."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._profile = world.profile
        self._random = world.kernel.stream("operator")
        self._active = True
        self._growing = True

    def start(self) -> None:
        profile = self._profile
        self._every(profile.membership_interval, self._on_membership)
        self._every(profile.transfer_interval, self._on_transfer)
        self._every(profile.compaction_interval, self._on_compaction)

    def stop(self) -> None:
        self._active = False

    def _every(self, interval: int, handler: Handler) -> None:
        if interval and self._active:
            self._world.kernel.schedule(int(interval * 2 * self._random.random()) + 1, handler, interval)

    # --- leadership and compaction ------------------------------------------------------------

    def _on_transfer(self, interval: int, _: object) -> None:
        if not self._active:
            return
        self._every(interval, self._on_transfer)
        up = [node for node in self._world.nodes.values() if node.up and not node.paused]
        if not up:
            return
        leader = self._world.leader()
        asked = leader if leader in up and self._random.random() < 0.8 else self._random.choice(up)
        to = self._random.choice(list(self._world.nodes))
        self._world.count("transfers asked")
        self._world.trace("--- {} is to hand over to {}", asked.node_id, to)
        if self._random.random() < 0.9:
            asked.process.transfer_leader(to)
        else:
            asked.process.forget_leader()

    def _on_compaction(self, interval: int, _: object) -> None:
        if not self._active:
            return
        self._every(interval, self._on_compaction)
        up = [node for node in self._world.nodes.values() if node.up and not node.paused]
        if not up:
            return
        node = self._random.choice(up)
        kept = self._random.choice((0, 0, 3, 20))
        if node.disk.applied - kept > node.disk.before[0]:
            self._world.count("compactions")
            self._world.trace("--- {} compacts to {}", node.node_id, node.disk.applied - kept)
            node.process.compact(node.disk.applied - kept)

    # --- membership ---------------------------------------------------------------------------

    def _on_membership(self, interval: int, _: object) -> None:
        if not self._active:
            return
        self._every(interval, self._on_membership)
        self.retire_removed()
        leader = self._world.leader()
        if leader is None or leader.paused:
            return
        if self._random.random() < self._profile.damage:
            self._damage_a_disk(leader)
            return
        change = self._next_change(leader)
        if change is None:
            return
        asked = leader
        if self._random.random() < 0.1:
            asked = self._random.choice([n for n in self._world.nodes.values() if n.up and not n.paused])
        self._world.count("configuration changes proposed")
        self._world.trace("--- {} is to propose {}", asked.node_id, change)
        asked.process.propose_conf_change(change)

    def retire_removed(self) -> None:
        """Wipe, in a while, whoever is a member no longer."""
        members = self._world.members()
        for node in self._world.nodes.values():
            if node.was_member and not node.retired and node.node_id not in members:
                delay = self._random.randrange(2 * self._profile.election_units)
                self._world.kernel.schedule(delay, self._retire, node.node_id)

    def _retire(self, node_id: int, _: object) -> None:
        """Not before a majority of those who stay know: their elections could still need its vote."""
        index, conf_state = self._world.invariants.confs[-1]
        voters = conf_state.voters
        informed = [voter for voter in voters if self._world.nodes[voter].disk.applied >= index]
        if len(informed) * 2 > len(voters) and node_id not in self._world.members():
            self._world.retire(node_id)

    def _next_change(self, leader: Node) -> ConfChange | ConfChangeV2 | None:
        configuration = leader.raft.configuration
        if configuration.joint:
            # Either it leaves by itself, or is told to; to be told twice must do no harm.
            return ConfChangeV2() if not configuration.auto_leave or self._random.random() < 0.1 else None
        members = sorted(leader.raft.progress)
        voters = sorted(configuration.voters)
        if (unusable := [i for i in members if self._world.nodes[i].unusable]) and len(voters) > 1:
            return ConfChange(ConfChangeType.REMOVE_NODE, unusable[0])
        if len(members) >= MOST_MEMBERS:
            self._growing = False
        elif len(voters) <= FEWEST_VOTERS:
            self._growing = True
        if self._random.random() < 0.3:
            return self._joint_change(voters, sorted(configuration.learners))
        if self._growing:
            return self._grow(sorted(configuration.learners))
        gone = self._random.choice([i for i in members if len(voters) > FEWEST_VOTERS or i not in voters])
        return ConfChange(ConfChangeType.REMOVE_NODE, gone)

    def tidy(self) -> None:
        """Leave a joint configuration, remove who is gone: what keeps a cluster from coming to rest."""
        leader = self._world.leader()
        if leader is None or leader.paused:
            return
        configuration = leader.raft.configuration
        gone = [i for i in sorted(leader.raft.progress) if self._world.nodes[i].unusable]
        if configuration.joint and not configuration.auto_leave:
            leader.process.propose_conf_change(ConfChangeV2())
        elif gone and not configuration.joint:
            leader.process.propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, gone[0]))

    def _grow(self, learners: list[int]) -> ConfChange:
        if learners and self._random.random() < 0.6:
            return ConfChange(ConfChangeType.ADD_NODE, self._random.choice(learners))
        kind = self._random.choice((ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER_NODE))
        return ConfChange(kind, self._world.spare().node_id)

    def _joint_change(self, voters: list[int], learners: list[int]) -> ConfChangeV2:
        """Some of: a new voter, a learner promoted, a voter demoted or removed."""
        changes = [ConfChangeSingle(ConfChangeType.ADD_NODE, self._world.spare().node_id)]
        if learners:
            changes.append(ConfChangeSingle(ConfChangeType.ADD_NODE, self._random.choice(learners)))
        gone = voters[: max(0, len(voters) - FEWEST_VOTERS + 1)]
        if len(voters) > 1 and gone:
            kind = self._random.choice((ConfChangeType.REMOVE_NODE, ConfChangeType.ADD_LEARNER_NODE))
            changes.append(ConfChangeSingle(kind, self._random.choice(voters)))
        if not self._growing and len(changes) > 1:
            del changes[0]
        transition = self._random.choice(
            (
                ConfChangeTransition.AUTO,
                ConfChangeTransition.JOINT_IMPLICIT,
                ConfChangeTransition.JOINT_EXPLICIT,
            )
        )
        return ConfChangeV2(tuple(changes), transition)

    def _damage_a_disk(self, leader: Node) -> None:
        """Flip a bit in one member's log, if the others can do without that member."""
        world = self._world
        voters = sorted(leader.raft.configuration.voters)
        if len(voters) < FEWEST_VOTERS or leader.raft.configuration.joint:
            return
        if any(node.unusable or node.disk.damaged for node in world.nodes.values() if not node.retired):
            return
        if any(self._changes_pending(node) for node in world.nodes.values()):
            return
        node = world.nodes[self._random.choice(voters)]
        if node.disk.log:
            index = node.disk.before[0] + 1 + self._random.randrange(len(node.disk.log))
            world.count("fault bit_flip")
            world.trace("--- a bit flips in entry {} on the disk of {}", index, node.node_id)
            node.disk.damage(index, self._random.randrange(1 << 20))
            if self._random.random() < 0.7:
                world.crash(node)

    @staticmethod
    def _changes_pending(node: Node) -> bool:
        uncommitted = node.disk.log[max(0, node.disk.hard_state.commit - node.disk.before[0]) :]
        return any(entry.kind is not EntryKind.NORMAL for entry in uncommitted)
