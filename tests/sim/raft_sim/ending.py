"""The second part of a run: troubles end one after the other, and the cluster must recover.

1. A minority of the voters is down: the others must serve.
2. Everyone is up: all must converge within a bounded time, serve, and have lost nothing.
3. A single link, or all links of one node, fail in one direction: the others must go on serving
   (Cloudflare, 2020).
4. That is healed: all must converge again. What clients were told, from the first event to the
   last, must be linearizable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from raft_sim.history import Kind, Operation, Outcome
from raft_sim.kernel import TICK, Violation
from raft_sim.linearizability import check_history

from aspen.raft.messages import EntryKind
from aspen.raft.rawnode import Role

if TYPE_CHECKING:
    from raft_sim.node import Node
    from raft_sim.world import World

_TIMEOUTS: Final = 100
_PATIENCES: Final = 10
"""Each of the parts may take so many election timeouts."""

_PROBE_INTERVAL: Final = 2 * TICK


class Ending:
    """Runs the second part for one world. `run` raises `Violation`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.kernel.stream("ending")
        self._probes: dict[int, Operation] = {}
        """The latest write under way, or done, at each member."""
        self._left_out = 0
        """The node that the others must do without."""
        self._tidies = False

    def run(self) -> None:
        world = self._world
        world.end_troubles()
        down = self._minority()
        world.held_down = frozenset(down)
        for node in world.nodes.values():
            if node.node_id in down:
                node.crash()
            else:
                node.heal()
        self._on_probe(None, None)
        if down:
            self._serve_by_quorum(down)
        self._tidies = True
        self._converge()
        if self._can_lose_a_link():
            self._serve_despite_a_one_way_link()
            self._converge()
        for node in world.members_up():
            world.kernel.note(node.disk.machine.digest)
        problem = check_history(world.history)
        if problem is not None:
            raise Violation("clients' histories are linearizable", problem)

    def _within(self, invariant: str, finished: Callable[[], bool], detail: Callable[[], str]) -> None:
        """Go on until `finished`; a violation if that takes too long."""
        patience = _TIMEOUTS * self._world.profile.election_units
        applied = -1
        for _ in range(_PATIENCES):
            if self._world.run_until(finished, patience):
                return
            # A backlog of a thousand entries, one a message and one a sync, takes its time.
            before, applied = applied, sum(node.applied for node in self._world.nodes.values())
            if applied <= before:
                break
        raise Violation(invariant, detail())

    # --- probes -------------------------------------------------------------------------------

    def _on_probe(self, _: object, __: object) -> None:
        """Have a write under way at each member (that takes writes) until one succeeds there."""
        world = self._world
        world.kernel.schedule(_PROBE_INTERVAL, self._on_probe)
        if self._tidies:
            world.operator.tidy()
        for node in world.members_up():
            node_id = node.node_id
            if not node.leads and (node_id == self._left_out or not world.profile.forwarding):
                continue
            probe = self._probes.get(node_id)
            if probe is None or probe.outcome in (Outcome.REFUSED, Outcome.UNKNOWN):
                self._probes[node_id] = world.clients.write(0, 0, node)

    def _served(self) -> bool:
        return any(probe.outcome is Outcome.OK for probe in self._probes.values())

    def _served_everywhere(self) -> bool:
        """Whether every member has had a write succeed, or the leader if only it takes any."""
        probes = self._probes
        nodes = self._world.members_up()
        if not self._world.profile.forwarding:
            nodes = [node for node in nodes if node.leads]
        return bool(nodes) and all(
            node.node_id in probes and probes[node.node_id].outcome is Outcome.OK for node in nodes
        )

    # --- a quorum -----------------------------------------------------------------------------

    def _minority(self) -> list[int]:
        """Voters that the others can do without.

        None while anyone has still to learn who the voters are: elections go by what each member
        has applied, and one that lags may need the votes of members who are so no longer.
        """
        world = self._world
        confs = world.invariants.confs
        if not confs or confs[-1][1].voters_outgoing:
            return []
        newest, conf = confs[-1]
        for node_id in world.members():
            disk = world.nodes[node_id].disk
            pending = [e for e in disk.log if e.index > newest and e.kind is not EntryKind.NORMAL]
            if pending or disk.applied < newest:
                return []
        down = self._random.sample(conf.voters, self._random.randrange((len(conf.voters) + 1) // 2))
        retired = [node_id for node_id in conf.voters if world.nodes[node_id].retired]
        return sorted(down) if 2 * len({*down, *retired}) < len(conf.voters) else []

    def _serve_by_quorum(self, down: list[int]) -> None:
        world = self._world
        world.trace("=== {} are down", down)
        before = world.conf_state()
        try:
            self._within("a quorum is enough", self._served, lambda: f"{down} are down; {self._describe()}")
        except Violation:
            # A late change of the configuration may have made them indispensable.
            if world.conf_state() == before:
                raise
        world.held_down = frozenset()
        for node_id in down:
            world.nodes[node_id].heal()

    # --- one asymmetric fault -----------------------------------------------------------------

    def _can_lose_a_link(self) -> bool:
        profile = self._world.profile
        return profile.check_quorum and profile.pre_vote and len(self._world.conf_state().voters) >= 3

    def _serve_despite_a_one_way_link(self) -> None:
        world = self._world
        members = [node.node_id for node in world.members_up()]
        victim = self._random.choice(members)
        others = [i for i in members if i != victim]
        if self._random.random() < 0.3:
            others = [self._random.choice(others)]
        outward = self._random.random() < 0.5
        world.trace("=== {} can't {} {}", victim, "speak to" if outward else "hear", others)
        for other in others:
            world.network.link(*((victim, other) if outward else (other, victim))).cut = True
        self._probes = {}
        self._left_out = victim
        self._within(
            "one asymmetric link doesn't stop the cluster",
            self._served,
            lambda: f"node {victim}, {'mute' if outward else 'deaf'} towards {others}",
        )
        world.network.heal()
        self._left_out = 0

    # --- convergence --------------------------------------------------------------------------

    def _converge(self) -> None:
        world = self._world
        world.trace("=== everything is healed")
        self._probes = {}
        self._within("the cluster converges", self._converged, self._describe)
        reads = [
            world.clients.read(0, key, node)
            for node in world.members_up()
            for key in range(world.profile.keys)
        ]
        self._within(
            "the cluster serves",
            lambda: all(read.outcome is Outcome.OK for read in reads),
            self._describe,
        )
        for operation in world.history.operations:
            if operation.outcome is Outcome.OK and operation.kind is not Kind.READ:
                index = world.invariants.request_index[operation.request_id]
                if any(node.applied < index for node in world.members_up()):
                    raise Violation("no acknowledged write is lost", repr(operation))

    def _converged(self) -> bool:
        if not self._served_everywhere():
            return False
        world = self._world
        leader = world.leader()
        if leader is None or world.conf_state().voters_outgoing:
            return False
        last = len(world.invariants.committed) - 1
        return all(self._is_level(node, leader, last) for node in world.members_up())

    @staticmethod
    def _is_level(node: Node, leader: Node, last: int) -> bool:
        raft = node.raft
        return (
            node.applied == raft.log.last_index == last
            and raft.term == leader.raft.term
            and raft.leader_id == leader.node_id
        )

    def _describe(self) -> str:
        nodes = "; ".join(
            f"{node.node_id}: {Role(node.raft.role).name} term {node.raft.term} of {node.raft.leader_id}, "
            f"applied {node.applied}, committed {node.raft.log.committed}, last {node.raft.log.last_index}"
            for node in self._world.members_up()
        )
        probes = ", ".join(f"{i}: {probe.outcome.value}" for i, probe in self._probes.items())
        return f"members {self._world.conf_state()}; {nodes}; writes {probes}"
