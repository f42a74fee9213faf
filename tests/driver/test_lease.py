"""A lease is believed only by a node that has kept time (thesis §6.4.1)."""

from __future__ import annotations

from typing import cast

from aspen.raft.lease import Lease
from aspen.raft.rawnode import RawNode

TICK, ELECTION = 0.01, 0.15


class Core:
    """A core that always claims its lease."""

    def lease_read_index(self) -> int:
        return 7


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def lease_of(clock: Clock) -> Lease:
    return Lease(cast(RawNode, Core()), clock, TICK, ELECTION)


def run(lease: Lease, clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds / TICK)):
        clock.now += TICK
        lease.ticked()


def test_not_before_a_whole_election_timeout_has_been_kept() -> None:
    clock = Clock()
    lease = lease_of(clock)
    run(lease, clock, ELECTION * 0.9)
    assert lease.read_index() is None
    run(lease, clock, ELECTION * 0.3)
    assert lease.read_index() == 7


def test_not_after_a_pause_that_no_tick_has_noticed_yet() -> None:
    """Stopped and continued: the first thing it does may be to answer a read."""
    clock = Clock()
    lease = lease_of(clock)
    run(lease, clock, 1)
    clock.now += 10
    assert lease.read_index() is None


def test_not_for_an_election_timeout_after_a_pause() -> None:
    clock = Clock()
    lease = lease_of(clock)
    run(lease, clock, 1)
    clock.now += 10
    lease.ticked()
    run(lease, clock, ELECTION * 0.9)
    assert lease.read_index() is None
    run(lease, clock, ELECTION * 0.3)
    assert lease.read_index() == 7
