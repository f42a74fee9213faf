"""One simulated world: its nodes, network and clients, and those who trouble them.

In the first part of a run everything happens that the profile allows, and the invariants are
checked as it happens. The second part, in which the cluster must show that it can recover, is in
`ending`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raft_sim.clients import Clients
from raft_sim.disk import DiskError
from raft_sim.ending import Ending
from raft_sim.history import History, Kind, Operation, Outcome, ReadMode
from raft_sim.invariants import Invariants
from raft_sim.kernel import TICK, Kernel, Violation
from raft_sim.nemesis import Nemesis
from raft_sim.network import Network
from raft_sim.node import Crashed, Node
from raft_sim.operator import Operator
from raft_sim.profile import Profile, draw_profile

from aspen.errors import AspenError
from aspen.raft.messages import ConfState

EVENTS: Final = 10_000
_TROUBLED_SHARE: Final = 0.88
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
        self.held_down: frozenset[int] = frozenset()
        """Nodes that don't start for now, although they could."""

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

    def members_up(self) -> list[Node]:
        return [self.nodes[i] for i in self.members() if self.nodes[i].up]

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
        quickly = self._random.random() < 0.4
        self.restart_later(
            node, self._random.randrange(2 * (TICK if quickly else self.profile.fault_duration))
        )

    def restart_later(self, node: Node, delay: int) -> None:
        self.kernel.schedule(delay, self._on_restart, node.node_id)

    def _on_restart(self, node_id: int, _: object) -> None:
        node = self.nodes[node_id]
        if not node.up and not node.retired and node_id not in self.held_down:
            node.start()

    def retire(self, node_id: int) -> None:
        node = self.nodes[node_id]
        self.trace("{} is gone for good", node_id)
        node.crash()
        node.retired = True

    # --- clients ------------------------------------------------------------------------------

    def ended(self, operation: Operation, outcome: Outcome, found: int) -> None:
        """A node has done with an operation, or its process has ended."""
        if operation.kind is not Kind.READ:
            if outcome is Outcome.OK:
                self.invariants.acknowledged(operation.request_id)
            elif outcome is Outcome.REFUSED:
                self.invariants.write_refused(operation.request_id)
        if operation.outcome is Outcome.PENDING:
            self.answered(operation, outcome, found)

    def answered(self, operation: Operation, outcome: Outcome, found: int) -> None:
        """A client learns of its operation's outcome, or goes away without."""
        self.history.end(operation, outcome, found)
        if self.tracing:
            self.trace("answer: {}", operation)
        self.clients.ended(operation)

    # --- the run ------------------------------------------------------------------------------

    def run(self, events: int = EVENTS) -> None:
        self.found()
        self.clients.start()
        self.nemesis.start()
        self.operator.start()
        self._run(int(events * _TROUBLED_SHARE), _NO_LIMIT)
        Ending(self).run()

    def found(self) -> None:
        """Start the founders."""
        for _ in self.founders:
            self.add_node()

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

    def end_troubles(self) -> None:
        """Everything works from now on; what is down stays down until it is healed or started."""
        self.trace("=== all troubles end")
        self.clients.stop()
        self.nemesis.stop()
        self.operator.stop()
        self.operator.retire_removed()
        self.network.calm()

    def run_until(self, finished: Callable[[], bool], limit: int) -> bool:
        """Go on until `finished`, but not for longer than `limit`. Whether it is."""
        if not finished():
            self._run(_NO_LIMIT, self.kernel.now + limit, finished)
        return finished()
