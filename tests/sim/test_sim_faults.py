"""Each trouble of the simulator does what it says: else the seeds would test less than they seem to."""

from __future__ import annotations

from random import Random

import pytest
from raft_sim.disk import CACHED_ENTRIES, Disk, DiskError, Job
from raft_sim.history import Kind, Operation, Outcome
from raft_sim.kernel import TICK, Kernel
from raft_sim.machine import COMPARE_AND_SWAP, WRITE, Machine, encode_command
from raft_sim.network import Network
from raft_sim.node import Node
from raft_sim.world import World
from sim_worlds import calm_profile, calm_world, followers, led_world

from aspen.raft.messages import Entry, HardState, Message, MessageType

# --- disk -------------------------------------------------------------------------------------


def _entries(first: int, last: int, term: int = 1) -> tuple[Entry, ...]:
    return tuple(
        Entry(term, index, data=encode_command(index, WRITE, 0, index, 0, 0))
        for index in range(first, last + 1)
    )


def _job(**work: object) -> Job:
    job = Job()
    for name, value in work.items():
        setattr(job, name, value)
    return job


def _commit(disk: Disk, **work: object) -> None:
    disk.commit(_job(**work), lambda entry, request_id, found: None)


def _disk(entries: int) -> Disk:
    disk = Disk(1)
    hard_state = HardState(1, 1, entries)
    _commit(disk, entries=_entries(1, entries), hard_state=hard_state, committed=_entries(1, entries))
    return disk


def test_every_flipped_bit_is_found() -> None:
    disk = _disk(3)
    for bit in range(8 * 60):
        disk.restart()
        disk.damage(2, bit)
        with pytest.raises(DiskError, match="entry 2"):
            disk.entries(1, 4, 1 << 20)
        with pytest.raises(DiskError, match="entry 2"):
            disk.term(2)
        disk.repair()
    assert disk.entries(1, 4, 1 << 20) == list(_entries(1, 3))


def test_what_is_in_memory_is_not_read_from_the_disk() -> None:
    disk = _disk(CACHED_ENTRIES + 5)
    disk.damage(2, 100)
    disk.damage(CACHED_ENTRIES, 100)
    assert disk.term(CACHED_ENTRIES) == 1
    with pytest.raises(DiskError):
        disk.term(2)


def test_damage_goes_with_the_entry() -> None:
    disk = _disk(4)
    disk.damage(2, 100)
    disk.damage(4, 100)
    disk.compact(2)
    _commit(disk, entries=_entries(4, 6, term=2))
    disk.restart()
    assert [entry.term for entry in disk.entries(3, 7, 1 << 20)] == [1, 2, 2, 2]


def test_a_disk_that_contradicts_itself_is_not_started_from() -> None:
    disk = _disk(3)
    disk.hard_state = HardState(1, 1, 2)
    with pytest.raises(DiskError, match="applied 3"):
        disk.restart()


def test_a_snapshot_is_the_whole_state_and_says_when_it_is_damaged() -> None:
    machine = Machine()
    machine.apply(encode_command(1, WRITE, 3, 1, 0, 0))
    machine.apply(encode_command(2, COMPARE_AND_SWAP, 3, 2, 1, 9))
    copy = Machine()
    copy.restore(machine.save())
    assert copy.state_hash == machine.state_hash
    assert copy.registers == {3: 2}
    damaged = bytearray(machine.save())
    damaged[-1] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        copy.restore(bytes(damaged))


def _submit_writes(world: World, node: Node, count: int) -> list[Operation]:
    return [world.clients.write(0, 0, node) for _ in range(count)]


def _crashed_with_jobs_in_flight(seed: int) -> tuple[int, int]:
    """How many entries a leader had handed to its disk when it crashed, and how many got there."""
    world, leader = led_world(seed, fsync_min=TICK, fsync_spread=0)
    before = leader.disk.last_index()
    _submit_writes(world, leader, 3)
    assert leader.disk.last_index() == before
    handed_over = len(leader.process.writer.in_flight)
    leader.crash()
    leader.start()
    return handed_over, leader.disk.last_index() - before


def test_a_crash_keeps_some_prefix_of_what_was_under_way() -> None:
    kept = set()
    for seed in range(1, 30):
        handed_over, durable = _crashed_with_jobs_in_flight(seed)
        assert 0 <= durable <= handed_over == 3
        kept.add(durable)
    assert kept == {0, 1, 2, 3}


def test_a_failed_fsync_ends_the_process_and_promises_nothing() -> None:
    world, leader = led_world()
    victim = followers(world)[0]
    victim.eio_next = True
    _submit_writes(world, leader, 1)
    assert world.run_until(lambda: not victim.up, 5 * TICK)
    assert leader.raft.progress[victim.node_id].match < leader.raft.log.last_index
    assert world.run_until(lambda: victim.up, 200 * TICK)


def test_a_full_disk_makes_a_leader_hand_over_and_refuse_until_there_is_room() -> None:
    world, leader = led_world()
    leader.disk_full = True
    first = _submit_writes(world, leader, 1)[0]
    assert world.run_until(lambda: world.leader() not in (None, leader), 50 * TICK)
    refused = _submit_writes(world, leader, 1)[0]
    assert refused.outcome is Outcome.REFUSED
    leader.heal_disk()
    assert world.run_until(lambda: leader.process.room.error is None, 10 * TICK)
    assert world.run_until(lambda: first.outcome is not Outcome.PENDING, 50 * TICK)
    accepted = _submit_writes(world, leader, 1)[0]
    assert world.run_until(lambda: accepted.outcome is Outcome.OK, 50 * TICK)


def test_a_slow_fsync_holds_up_one_node_only() -> None:
    world, leader = led_world()
    slow = followers(world)[0]
    slow.fsync_slowness = 1_000
    operation = _submit_writes(world, leader, 1)[0]
    assert world.run_until(lambda: operation.outcome is Outcome.OK, 5 * TICK)
    assert slow.disk.last_index() < leader.disk.last_index()


def test_a_crash_happens_at_the_point_it_is_armed_for() -> None:
    """From the first point on there is always a later one, until nothing is left to do."""
    seen = set()
    for point in range(1, 12):
        world, leader = led_world()
        sent, jobs = world.network.sent, len(leader.process.writer.in_flight)
        leader.crash_in = point
        _ = world.run_until(lambda leader=leader: not leader.up, 0)
        operation = Operation(0, Kind.WRITE, 0, request_id=1, value=1)
        world.history.call(operation)
        world.kernel.schedule(0, leader.process.propose, operation, encode_command(1, WRITE, 0, 1, 0, 0))
        assert world.run_until(lambda leader=leader: not leader.up, 5 * TICK)
        seen.add((world.network.sent - sent, len(leader.process.writer.in_flight) - jobs))
    assert {sent for sent, _ in seen} >= {0, 1, 2}
    assert {jobs for _, jobs in seen} >= {0, 1}


# --- network ----------------------------------------------------------------------------------


class _Station:
    def __init__(self, node_id: int, kernel: Kernel) -> None:
        self.node_id = node_id
        self.up = True
        self.heard: list[tuple[int, int]] = []
        self.unreachable: list[int] = []
        self._kernel = kernel

    def receive(self, message: Message, peer: int) -> None:
        self.heard.append((self._kernel.now, message.index))

    def peer_unreachable(self, peer: int, _: object = None) -> None:
        self.unreachable.append(peer)


class _Wire:
    """Stations 1 to n on a network."""

    def __init__(self, count: int = 2, **troubles: object) -> None:
        self.kernel = Kernel(1)
        self.network = Network(self.kernel, calm_profile(**troubles))
        self.stations = {node_id: _Station(node_id, self.kernel) for node_id in range(1, count + 1)}
        self.network.nodes.update(self.stations)

    def send(self, sender: int, to: int, index: int = 0, kind: MessageType = MessageType.APP) -> None:
        self.network.send(sender, Message(kind, to=to, sender=sender, term=1, index=index))

    def heard(self, node_id: int) -> list[int]:
        self.kernel.run(1 << 40, 1 << 40)
        return [index for _, index in self.stations[node_id].heard]

    def reaches(self, sender: int, to: int) -> bool:
        before = len(self.heard(to))
        self.send(sender, to)
        return len(self.heard(to)) > before


def test_without_reordering_messages_arrive_in_order() -> None:
    wire = _Wire()
    for index in range(50):
        wire.send(1, 2, index)
    assert wire.heard(2) == list(range(50))
    assert all(delay >= 50 for delay, _ in wire.stations[2].heard)


def test_with_reordering_some_overtake_others() -> None:
    wire = _Wire(reorder=True)
    for index in range(50):
        wire.send(1, 2, index)
    heard = wire.heard(2)
    assert heard != sorted(heard) == list(range(50))


def test_drops_and_duplicates() -> None:
    wire = _Wire(drop=0.3, duplicate=0.3, reorder=True, unreachable_told=1.0)
    for index in range(500):
        wire.send(1, 2, index)
    heard = wire.heard(2)
    assert 250 < len(set(heard)) < 450
    assert 50 < len(heard) - len(set(heard)) < 200
    assert len(wire.stations[1].unreachable) == 500 - len(set(heard))


def test_a_proposal_never_arrives_twice() -> None:
    wire = _Wire(duplicate=1.0, remember=1.0)
    wire.send(1, 2, 7, MessageType.PROP)
    assert wire.heard(2) == [7]
    wire.network.replay(10)
    assert wire.heard(2) == [7]


def test_replay_brings_back_what_was_said_long_ago() -> None:
    wire = _Wire(remember=1.0)
    wire.send(1, 2, 7)
    assert wire.heard(2) == [7]
    wire.kernel.now += 1_000 * TICK
    wire.network.replay(3)
    assert wire.heard(2) == [7, 7]


def test_a_cut_is_of_one_direction() -> None:
    wire = _Wire()
    wire.network.link(1, 2).cut = True
    assert not wire.reaches(1, 2)
    assert wire.reaches(2, 1)
    wire.network.heal()
    assert wire.reaches(1, 2)


def test_a_partition_cuts_between_groups() -> None:
    wire = _Wire(4)
    wire.network.partition(((1, 2), (3, 4)))
    assert wire.reaches(1, 2)
    assert wire.reaches(4, 3)
    assert not wire.reaches(1, 3)
    assert not wire.reaches(4, 2)


def test_in_a_ring_each_reaches_two() -> None:
    wire = _Wire(5)
    wire.network.ring([3, 1, 4, 2, 5])
    reached = {to for to in (2, 3, 4, 5) if wire.reaches(1, to)}
    assert reached == {3, 4}


def test_a_clogged_link_keeps_what_it_is_given() -> None:
    wire = _Wire()
    wire.network.clog(1, 2, until=30 * TICK)
    wire.send(1, 2, 7)
    assert wire.heard(2) == [7]
    assert wire.stations[2].heard[0][0] >= 30 * TICK


def test_calm_ends_all_of_it() -> None:
    wire = _Wire(drop=1.0, duplicate=1.0)
    wire.network.link(1, 2).cut = True
    wire.network.calm()
    wire.send(1, 2, 7)
    assert wire.heard(2) == [7]


# --- clocks and processes ---------------------------------------------------------------------


def _ticks(node: Node, world: World, units: int) -> int:
    before = node.raft.ticks
    world.run_until(lambda: False, units)
    return node.raft.ticks - before


def test_clocks_run_at_different_rates() -> None:
    world, leader = led_world()
    leader.tick_length = int(TICK / 0.9)
    assert 88 <= _ticks(leader, world, 100 * TICK) <= 92
    lengths = set()
    for _ in range(1_000):
        leader.draw_clock_rate()
        lengths.add(leader.tick_length)
    assert min(lengths) >= int(TICK / 1.1)
    assert max(lengths) <= int(TICK / 0.9) + 1
    assert max(lengths) - min(lengths) > 190


def test_a_step_forward_is_a_burst_of_ticks_and_one_back_is_none() -> None:
    world, leader = led_world()
    node = followers(world)[0]
    before = node.raft.ticks
    node.step_clock(5)
    assert node.raft.ticks == before + 5
    node.step_clock(-5)
    assert 4 <= _ticks(node, world, 10 * node.tick_length) <= 6
    assert world.leader() is leader


def test_a_paused_process_hears_nothing_and_makes_up_no_ticks() -> None:
    world, leader = led_world(pre_vote=True)
    node = followers(world)[0]
    node.pause(25 * TICK)
    operation = _submit_writes(world, leader, 1)[0]
    assert world.run_until(lambda: operation.outcome is Outcome.OK, 5 * TICK)
    elapsed, term = node.raft.election_elapsed, node.raft.term
    world.run_until(lambda: not node.paused, 30 * TICK)
    assert node.raft.election_elapsed <= elapsed + 1
    assert world.run_until(lambda: node.applied == leader.applied, 5 * TICK)
    assert (world.leader(), node.raft.term) == (leader, term)


def test_a_leader_that_slept_believes_no_lease() -> None:
    from raft_sim.profile import Lease

    world, leader = led_world(lease=Lease.LEADER, election_ticks=12)
    assert world.run_until(lambda: leader.process._lease.read_index() is not None, 50 * TICK)
    leader.pause(60 * TICK)
    assert world.run_until(lambda: world.leader() is not leader, 60 * TICK)
    assert world.run_until(lambda: not leader.paused, 60 * TICK)
    assert leader.process._lease.read_index() is None


def test_a_member_that_was_removed_is_wiped_and_never_comes_back() -> None:
    world = calm_world(seed=4, membership_interval=6 * TICK, size=5)
    world.operator.start()
    assert world.run_until(lambda: any(node.retired for node in world.nodes.values()), 2_000 * TICK)
    gone = next(node for node in world.nodes.values() if node.retired)
    world.restart_later(gone, 0)
    world.run_until(lambda: False, 5 * TICK)
    assert not gone.up
    assert gone.node_id not in world.members()


# --- chance -----------------------------------------------------------------------------------


def test_a_seed_is_a_run() -> None:
    hashes = []
    for seed in (5, 5, 6):
        world = World(seed)
        world.run(2_000)
        hashes.append(world.kernel.trace_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_substreams_don_t_depend_on_each_other() -> None:
    first, second = Kernel(9), Kernel(9)
    first.stream("network").random()
    assert first.stream("clients").random() == second.stream("clients").random()
    assert Random("9/clients").random() == second.stream("clients").random()
