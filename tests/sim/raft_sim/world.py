"""One simulated world: nodes, network, clients, and those who trouble them; and what a run of it is.

In the first part of a run everything happens that the profile allows. Then all troubles end, and
everyone must converge within a bounded time, serve, and have lost nothing. Then a single link, or
all links of one node, fail in one direction only: the others must go on serving (Cloudflare,
2020), and all must converge once that is healed too. What clients were told, from the first to
the last, must be linearizable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raft_sim.clients import Clients
from raft_sim.disk import DiskError
from raft_sim.history import History, Kind, Operation, Outcome, ReadMode
from raft_sim.invariants import Invariants
from raft_sim.kernel import TICK, Kernel, Violation
from raft_sim.linearizability import check_history
from raft_sim.nemesis import Nemesis
from raft_sim.network import Network
from raft_sim.node import Crashed, Node
from raft_sim.operator import Operator
from raft_sim.profile import Profile, draw_profile

from aspen.errors import AspenError
from aspen.raft.messages import ConfState
from aspen.raft.rawnode import Role

EVENTS: Final = 10_000
_TROUBLED_SHARE: Final = 0.88
_SERVE_TIMEOUTS: Final = 100
"""So many election timeouts after the troubles end, the cluster must serve and have converged."""

_NO_LIMIT: Final = 2**62

Trace = Callable[[str], None]


class World:
    """Everything of one seed. `run` raises `Violation`."""

    def __init__(self, seed: int, *, profile: Profile | None = None, trace: Trace | None = None) -> None:
        self.seed = seed
        self.kernel = Kernel(seed)
        self.profile = profile or draw_profile(self.kernel.stream("profile"))
        self.tracing = trace is not None
        self._trace = trace
        self.history = History()
        self.invariants = Invariants(self.profile.size)
        self.founders = range(1, self.profile.size + 1)
        self.bootstrapping = self.founders if self.profile.all_bootstrap else self.founders[:1]
        """Which of them write the first entries of the log; the others get them by replication."""
        self.network = Network(self.kernel, self.profile)
        self.nodes: dict[int, Node] = {}
        self.clients = Clients(self)
        self.nemesis = Nemesis(self)
        self.operator = Operator(self)
        self._random = self.kernel.stream("world")
        self._seen: dict[str, int] = {}
        self._probes: dict[int, Operation] = {}
        self._left_out = 0
        """The node that the others must do without."""

    def count(self, what: str) -> None:
        self._seen[what] = self._seen.get(what, 0) + 1

    def seen(self) -> dict[str, int]:
        """What happened how often."""
        operations = self.history.operations
        return {
            **self._seen,
            "messages": self.network.sent,
            "nodes": len(self.nodes),
            "committed": len(self.invariants.committed) - 1,
            "terms with a leader": len(self.invariants.leaders),
            "configurations": len(self.invariants.confs),
            "operations": len(operations),
            "operations ok": sum(operation.outcome is Outcome.OK for operation in operations),
            "operations refused": sum(operation.outcome is Outcome.REFUSED for operation in operations),
            "operations of unknown outcome": sum(
                operation.outcome is Outcome.UNKNOWN for operation in operations
            ),
            "reads ok": sum(
                operation.outcome is Outcome.OK and operation.kind is Kind.READ for operation in operations
            ),
            "leader reads ok": sum(
                operation.outcome is Outcome.OK
                and operation.kind is Kind.READ
                and operation.mode is ReadMode.LEADER
                for operation in operations
            ),
        }

    def trace(self, text: str, *values: Any) -> None:
        if self._trace is not None:
            self._trace(f"{self.kernel.now / TICK:10.3f}  {text.format(*values)}")

    # --- nodes --------------------------------------------------------------------------------

    def add_node(self) -> Node:
        node = Node(self, len(self.nodes) + 1)
        self.nodes[node.node_id] = self.network.nodes[node.node_id] = node
        node.draw_clock_rate()
        node.start()
        return node

    def spare(self) -> Node:
        """A node that is, and was, no member."""
        members = self.members()
        for node in self.nodes.values():
            if node.node_id not in members and not node.was_member and not node.retired:
                return node
        return self.add_node()

    def conf_state(self) -> ConfState:
        """The newest configuration that anyone has applied."""
        confs = self.invariants.confs
        return confs[-1][1] if confs else ConfState()

    def members(self) -> list[int]:
        conf = self.conf_state()
        return sorted({*conf.voters, *conf.learners, *conf.voters_outgoing, *conf.learners_next})

    def configuration_changed(self, conf_state: ConfState) -> None:
        """Someone is the first to apply this one."""
        for node_id in (*conf_state.voters, *conf_state.learners):
            self.nodes[node_id].was_member = True

    def leader(self) -> Node | None:
        """Who leads in the highest term in which anyone does."""
        leaders = [node for node in self.nodes.values() if node.up and node.leads]
        return max(leaders, key=lambda node: node.raft.term) if leaders else None

    def has_durably(self, node_id: int, index: int, term: int) -> bool:
        disk = self.nodes[node_id].disk
        if index <= disk.before[0]:
            return True  # compacted: it was applied there
        position = index - disk.before[0] - 1
        return position < len(disk.log) and disk.log[position].term == term

    def crash(self, node: Node) -> None:
        node.crash()
        self.restart_later(node, self._random.randrange(2 * self.profile.fault_duration))

    def restart_later(self, node: Node, delay: int) -> None:
        self.kernel.schedule(delay, self._on_restart, node.node_id)

    def _on_restart(self, node_id: int, _: object) -> None:
        node = self.nodes[node_id]
        if not node.up and not node.retired:
            node.start()

    def retire(self, node_id: int) -> None:
        node = self.nodes[node_id]
        self.trace("{} is gone for good", node_id)
        node.crash()
        node.retired = True

    # --- clients ------------------------------------------------------------------------------

    def ended(self, operation: Operation, outcome: Outcome, found: int) -> None:
        """A node answers an operation, or a client sees its connection break."""
        self.history.end(operation, outcome, found)
        if operation.kind is not Kind.READ:
            if outcome is Outcome.OK:
                self.invariants.acknowledged(operation.request_id)
            elif outcome is Outcome.REFUSED:
                self.invariants.write_refused(operation.request_id)
        if self.tracing:
            self.trace("answer: {}", operation)
        self.clients.ended(operation)

    # --- the run ------------------------------------------------------------------------------

    def run(self, events: int = EVENTS) -> None:
        for _ in self.founders:
            self.add_node()
        self.clients.start()
        self.nemesis.start()
        self.operator.start()
        self._run(int(events * _TROUBLED_SHARE), _NO_LIMIT)
        self._end_troubles()
        self._converge()
        if self._can_lose_a_link():
            self._serve_despite_a_one_way_link()
            self._converge()
        self._check_history()

    def _run(self, until_event: int, until_time: int, finished: Callable[[], bool] | None = None) -> None:
        while True:
            try:
                self.kernel.run(until_event, until_time, finished)
            except Crashed as crashed:
                self.crash(crashed.node)
            except DiskError as error:
                if not self.nodes[error.node_id].disk.damaged:
                    raise Violation("disks hold what was written", str(error)) from error
                self.count("disk errors found")
                self.trace("disk error: {}", error)
                self.crash(self.nodes[error.node_id])
            except AspenError as error:
                raise Violation("the core's own invariants", f"{type(error).__name__}: {error}") from error
            else:
                return

    def _end_troubles(self) -> None:
        self.trace("=== all troubles end")
        self.clients.stop()
        self.nemesis.stop()
        self.operator.stop()
        self.operator.retire_removed()
        self.network.calm()
        for node in self.nodes.values():
            node.heal()
        self._on_probe(None, None)

    def _within(self, invariant: str, finished: Callable[[], bool], detail: Callable[[], str]) -> None:
        """Go on until `finished`; a violation if that takes too long."""
        limit = self.kernel.now + _SERVE_TIMEOUTS * self.profile.election_units
        self._run(_NO_LIMIT, limit, finished)
        if not finished():
            raise Violation(invariant, detail())

    # --- one asymmetric fault -----------------------------------------------------------------

    def _can_lose_a_link(self) -> bool:
        profile = self.profile
        return profile.check_quorum and profile.pre_vote and len(self.conf_state().voters) >= 3

    def _serve_despite_a_one_way_link(self) -> None:
        members = [node.node_id for node in self._members_up()]
        victim = self._random.choice(members)
        others = [i for i in members if i != victim]
        if self._random.random() < 0.3:
            others = [self._random.choice(others)]
        outward = self._random.random() < 0.5
        self.trace("=== {} can't {} {}", victim, "speak to" if outward else "hear", others)
        for other in others:
            self.network.link(*((victim, other) if outward else (other, victim))).cut = True
        self._probes = {}
        self._left_out = victim
        self._within(
            "one asymmetric link doesn't stop the cluster",
            lambda: any(probe.outcome is Outcome.OK for probe in self._probes.values()),
            lambda: f"node {victim}, {'mute' if outward else 'deaf'} towards {others}",
        )
        self.network.heal()
        self._left_out = 0

    def _on_probe(self, _: object, __: object) -> None:
        """Have a write under way at each member (that takes writes) until one succeeds there."""
        self.kernel.schedule(2 * TICK, self._on_probe)
        self.operator.tidy()
        for node in self._members_up():
            node_id = node.node_id
            probe = self._probes.get(node_id)
            if not node.leads and (node_id == self._left_out or not self.profile.forwarding):
                continue
            if probe is None or probe.outcome in (Outcome.REFUSED, Outcome.UNKNOWN):
                self._probes[node_id] = self.clients.write(0, 0, node)

    def _probed(self) -> bool:
        """Whether every member has had a write succeed, or the leader if only it takes any."""
        probes = self._probes
        nodes = self._members_up() if self.profile.forwarding else [n for n in self._members_up() if n.leads]
        return bool(nodes) and all(
            node.node_id in probes and probes[node.node_id].outcome is Outcome.OK for node in nodes
        )

    # --- convergence --------------------------------------------------------------------------

    def _converge(self) -> None:
        self.trace("=== everything is healed")
        self._probes = {}
        self._within("the cluster converges", self._converged, self._describe)
        reads = [
            self.clients.read(0, key, node) for node in self._members_up() for key in range(self.profile.keys)
        ]
        self._within(
            "the cluster serves",
            lambda: all(read.outcome is Outcome.OK for read in reads),
            self._describe,
        )
        for operation in self.history.operations:
            if operation.outcome is Outcome.OK and operation.kind is not Kind.READ:
                index = self.invariants.request_index[operation.request_id]
                if any(node.applied < index for node in self._members_up()):
                    raise Violation("no acknowledged write is lost", repr(operation))

    def _members_up(self) -> list[Node]:
        return [self.nodes[i] for i in self.members() if self.nodes[i].up]

    def _converged(self) -> bool:
        if not self._probed():
            return False
        nodes = self._members_up()
        leader = self.leader()
        if leader is None or self.conf_state().voters_outgoing:
            return False
        last = len(self.invariants.committed) - 1
        return all(
            node.applied == last
            and node.raft.term == leader.raft.term
            and node.raft.leader_id == leader.node_id
            and node.raft.log.last_index == last
            for node in nodes
        )

    def _describe(self) -> str:
        nodes = "; ".join(
            f"{node.node_id}: {Role(node.raft.role).name} term {node.raft.term} of {node.raft.leader_id}, "
            f"applied {node.applied}, committed {node.raft.log.committed}, last {node.raft.log.last_index}"
            for node in self._members_up()
        )
        probes = ", ".join(f"{i}: {probe.outcome.value}" for i, probe in self._probes.items())
        return f"members {self.conf_state()}; {nodes}; writes {probes}"

    def _check_history(self) -> None:
        for node in self._members_up():
            self.kernel.note(node.disk.machine.digest)
        problem = check_history(self.history)
        if problem is not None:
            raise Violation("clients' histories are linearizable", problem)
