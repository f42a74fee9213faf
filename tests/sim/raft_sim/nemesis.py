"""The nemesis: makes one trouble after another, and takes most of them back after a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raft_sim.kernel import TICK
from raft_sim.profile import Fault

if TYPE_CHECKING:
    from raft_sim.node import Node
    from raft_sim.world import World


class Nemesis:
    """Strikes at random intervals, with the faults that the world's profile has."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._profile = world.profile
        self._random = world.kernel.stream("nemesis")
        self._active = True
        self._strikes: dict[Fault, Callable[[], None]] = {
            Fault.CRASH: self._crash,
            Fault.CRASH_MANY: self._crash_many,
            Fault.PAUSE: self._pause,
            Fault.CLOCK_RATE: self._clock_rate,
            Fault.CLOCK_STEP: self._clock_step,
            Fault.PARTITION: self._partition,
            Fault.CUT_ONE_WAY: self._cut_one_way,
            Fault.CUT_PAIR: self._cut_pair,
            Fault.DEAF_OR_MUTE: self._deaf_or_mute,
            Fault.RING: self._ring,
            Fault.CLOG: self._clog,
            Fault.SWIZZLE_CLOG: self._swizzle_clog,
            Fault.LOSS: self._loss,
            Fault.SLOW_LINK: self._slow_link,
            Fault.REPLAY: self._replay,
            Fault.SLOW_FSYNC: self._slow_fsync,
            Fault.DISK_FULL: self._disk_full,
            Fault.FSYNC_EIO: self._fsync_eio,
            Fault.ROLLING_RESTART: self._rolling_restart,
            Fault.DEAF_AFTER_TRANSFER: self._deaf_after_transfer,
            Fault.ALONE_WHILE_OTHERS_RESTART: self._alone_while_others_restart,
        }

    def start(self) -> None:
        self._again()

    def stop(self) -> None:
        self._active = False

    def _again(self) -> None:
        delay = int(self._profile.fault_interval * 2 * self._random.random())
        self._world.kernel.schedule(delay, self._on_strike)

    def _on_strike(self, _: object, __: object) -> None:
        if not self._active:
            return
        fault = self._random.choice(self._profile.faults)
        self._world.count(f"fault {fault.value}")
        self._world.trace("--- {}", fault.value)
        self._strikes[fault]()
        self._again()

    # --- help ---------------------------------------------------------------------------------

    def _duration(self) -> int:
        return 1 + int(self._profile.fault_duration * 2 * self._random.random())

    def _later(self, action: Callable[[], None]) -> None:
        """Take a trouble back after a while. (At the end of the run everything is.)"""
        self._world.kernel.schedule(self._duration(), self._undo, action)

    def _undo(self, action: Callable[[], None], _: object) -> None:
        if self._active:
            action()

    def _node_ids(self) -> list[int]:
        return [node.node_id for node in self._world.nodes.values() if not node.retired]

    def _pick_node(self) -> Node:
        """Any, but the leader as often as all others together."""
        leader = self._world.leader()
        if leader is not None and self._random.random() < 0.4:
            return leader
        return self._world.nodes[self._random.choice(self._node_ids())]

    def _pick_link(self) -> tuple[int, int] | None:
        node_ids = self._node_ids()
        if len(node_ids) < 2:
            return None
        sender, to = self._random.sample(node_ids, 2)
        return sender, to

    # --- processes ----------------------------------------------------------------------------

    def _crash(self) -> None:
        node = self._pick_node()
        if not node.up:
            return
        if self._random.random() < 0.7:
            node.crash_in = 1 + self._random.randrange(30)
        else:
            self._world.crash(node)

    def _crash_many(self) -> None:
        node_ids = self._node_ids()
        count = self._random.choice((len(node_ids) // 2 + 1, len(node_ids)))
        for node_id in self._random.sample(node_ids, count):
            self._world.crash(self._world.nodes[node_id])

    def _rolling_restart(self) -> None:
        """Stop and start one after the other, whether the one before is back in step or not."""
        delay = 0
        for node_id in self._node_ids():
            delay += self._random.randrange(4 * TICK)
            self._world.kernel.schedule(delay, self._restart, node_id)

    def _restart(self, node_id: int, _: object) -> None:
        node = self._world.nodes[node_id]
        if self._active and node.up:
            node.stop()
            self._world.restart_later(node, self._random.randrange(4 * TICK))

    def _pause(self) -> None:
        node = self._pick_node()
        if node.up and not node.paused:
            timeouts = self._random.choice((0.3, 1, 2, 3)) * (0.5 + self._random.random())
            node.pause(int(self._profile.election_units * timeouts))

    def _clock_rate(self) -> None:
        self._pick_node().draw_clock_rate()

    def _clock_step(self) -> None:
        node = self._pick_node()
        most = self._profile.election_ticks
        node.step_clock(self._random.randrange(-most, most + 1))

    # --- network ------------------------------------------------------------------------------

    def _partition(self) -> None:
        """Two halves of any size; or the leader with less than half of the others, or nobody."""
        node_ids = self._node_ids()
        self._random.shuffle(node_ids)
        cut = self._random.randrange(len(node_ids) + 1)
        leader = self._world.leader()
        if leader is not None and self._random.random() < 0.5:
            node_ids.remove(leader.node_id)
            node_ids.insert(0, leader.node_id)
            cut = 1 + self._random.randrange((len(node_ids) + 1) // 2)
        self._world.network.partition((node_ids[:cut], node_ids[cut:]))
        self._later(self._world.network.heal)

    def _cut_one_way(self) -> None:
        if (route := self._pick_link()) is not None:
            link = self._world.network.link(*route)
            link.cut = True
            self._later(link.heal)

    def _cut_pair(self) -> None:
        """Two nodes, often one of them the leader, can't speak with each other, but with all others."""
        node_ids = self._node_ids()
        if len(node_ids) < 2:
            return
        one = self._pick_node().node_id
        other = self._random.choice([node_id for node_id in node_ids if node_id != one])
        self._world.network.partition(((one,), (other,)))
        self._later(self._world.network.heal)

    def _deaf_or_mute(self) -> None:
        node = self._pick_node()
        self._cut_off(node.node_id, deaf=self._random.random() < 0.5)

    def _cut_off(self, node_id: int, deaf: bool) -> None:
        for other in self._node_ids():
            route = (other, node_id) if deaf else (node_id, other)
            self._world.network.link(*route).cut = True
        self._later(self._world.network.heal)

    def _ring(self) -> None:
        node_ids = self._node_ids()
        self._random.shuffle(node_ids)
        self._world.network.ring(node_ids)
        self._later(self._world.network.heal)

    def _clog(self) -> None:
        if (route := self._pick_link()) is not None:
            self._world.network.clog(*route, until=self._world.kernel.now + self._duration())

    def _swizzle_clog(self) -> None:
        """Clog some nodes' links one after the other; free them in another order."""
        node_ids = self._node_ids()
        chosen = self._random.sample(node_ids, self._random.randrange(1, len(node_ids) + 1))
        delay = 0
        for node_id in chosen:
            delay += self._random.randrange(3 * TICK)
            until = self._world.kernel.now + delay + self._duration()
            self._world.kernel.schedule(delay, self._clog_node, node_id, until)

    def _clog_node(self, node_id: int, until: int) -> None:
        if self._active:
            for other in self._node_ids():
                self._world.network.clog(node_id, other, until)
                self._world.network.clog(other, node_id, until)

    def _loss(self) -> None:
        loss = self._random.choice((0.1, 0.3, 0.6))
        for _ in range(1 + self._random.randrange(6)):
            if (route := self._pick_link()) is not None:
                link = self._world.network.link(*route)
                link.drop = loss
                self._later(link.heal)

    def _slow_link(self) -> None:
        if (route := self._pick_link()) is not None:
            link = self._world.network.link(*route)
            link.slowness = self._random.choice((3, 10, 30))
            self._later(link.heal)

    def _replay(self) -> None:
        self._world.network.replay(30)

    # --- two at a time ------------------------------------------------------------------------

    def _deaf_after_transfer(self) -> None:
        """A leader hands over, and doesn't hear that another leads."""
        leader = self._world.leader()
        if leader is None or leader.paused:
            return
        self._world.count("transfers asked")
        leader.process.transfer_leader(self._random.choice(self._node_ids()))
        self._world.kernel.schedule(self._random.randrange(TICK), self._on_deaf, leader.node_id)

    def _on_deaf(self, node_id: int, _: object) -> None:
        if self._active:
            self._cut_off(node_id, deaf=True)

    def _alone_while_others_restart(self) -> None:
        """A follower that can't hear its leader wants to lead; then the leader is cut off from all,
        as the others restart."""
        leader = self._world.leader()
        others = [] if leader is None else [i for i in self._node_ids() if i != leader.node_id]
        if leader is None or not others:
            return
        candidate = self._random.choice(others)
        self._world.network.partition(((leader.node_id,), (candidate,)))
        delay = int(self._profile.election_units * (1 + self._random.random()))
        self._world.kernel.schedule(delay, self._on_alone, leader.node_id, candidate)

    def _on_alone(self, leader_id: int, candidate: int) -> None:
        if not self._active:
            return
        others = [node_id for node_id in self._node_ids() if node_id != leader_id]
        self._world.network.partition(((leader_id,), others))
        self._later(self._world.network.heal)
        for node_id in others:
            if node_id != candidate and self._world.nodes[node_id].up:
                self._world.nodes[node_id].stop()
                self._world.restart_later(self._world.nodes[node_id], self._random.randrange(TICK))
        self._world.kernel.schedule(TICK, self._on_campaign, candidate)

    def _on_campaign(self, node_id: int, _: object) -> None:
        node = self._world.nodes[node_id]
        if self._active and node.up and not node.paused:
            node.process.campaign()

    # --- disks --------------------------------------------------------------------------------

    def _slow_fsync(self) -> None:
        node = self._pick_node()
        node.fsync_slowness = self._random.choice((5, 20, 100))
        self._later(node.heal_disk)

    def _disk_full(self) -> None:
        node = self._pick_node()
        node.disk_full = True
        self._later(node.heal_disk)

    def _fsync_eio(self) -> None:
        node = self._pick_node()
        if node.up:
            node.eio_next = True
