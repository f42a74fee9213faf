"""What one seed's world is like: size, settings, and which troubles it has, how often.

Drawn at random for each seed ("swarm testing"): a world in which everything goes wrong at once
rarely gets anywhere, and a bug may need the absence of one trouble as much as the presence of
another.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final

from raft_sim.kernel import TICK


class Lease(Enum):
    NONE = "none"
    LEADER = "leader"  # `lease_read_index` on the leader
    LEASE_BASED = "lease_based"  # that, and ReadIndex itself relies on the lease


class Fault(Enum):
    """A trouble that the nemesis can make."""

    CRASH = "crash"
    CRASH_MANY = "crash_many"
    PAUSE = "pause"
    CLOCK_RATE = "clock_rate"
    CLOCK_STEP = "clock_step"
    PARTITION = "partition"
    CUT_ONE_WAY = "cut_one_way"
    CUT_PAIR = "cut_pair"
    DEAF_OR_MUTE = "deaf_or_mute"
    RING = "ring"
    CLOG = "clog"
    SWIZZLE_CLOG = "swizzle_clog"
    LOSS = "loss"
    SLOW_LINK = "slow_link"
    REPLAY = "replay"
    SLOW_FSYNC = "slow_fsync"
    DISK_FULL = "disk_full"
    FSYNC_EIO = "fsync_eio"
    ROLLING_RESTART = "rolling_restart"
    DEAF_AFTER_TRANSFER = "deaf_after_transfer"
    ALONE_WHILE_OTHERS_RESTART = "alone_while_others_restart"


_ALWAYS: Final = (Fault.CRASH, Fault.PARTITION)
_BREAKS_LEASES: Final = (Fault.CLOCK_STEP,)
"""What a lease isn't promised to survive: a monotonic clock that jumps or goes back."""


_BOOTSTRAP_BYTES: Final = 400
"""The entries that name the founders fit into one message of that size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Times are in units of the kernel, sizes in bytes, chances from 0 to 1."""

    size: int
    all_bootstrap: bool
    """Whether each founder writes the first entries itself, or only one does and replicates them."""
    election_ticks: int
    heartbeat_ticks: int
    pre_vote: bool
    check_quorum: bool
    lease: Lease
    forwarding: bool
    turn: int
    """The longest that a node waits for more before it deals with what has arrived; 0 for not at all."""

    max_message_bytes: int
    max_committed_bytes: int
    max_uncommitted_bytes: int
    max_inflight_messages: int
    max_inflight_bytes: int
    padding: int
    """Commands are made larger by up to so much."""

    delay_min: int
    delay_spread: int
    drop: float
    duplicate: float
    duplicate_spread: int
    straggle: float
    straggle_factor: int
    reorder: bool
    remember: float
    unreachable_told: float

    streamed_snapshots: bool
    """Whether a snapshot's content is fetched, one at a time, before the core sees its message."""
    snapshot_told: bool
    """Whether a leader is told that its snapshot has arrived, rather than to wait for an answer."""

    fsync_min: int
    fsync_spread: int

    clients: int
    keys: int
    think: int
    patience: int
    """How long a client waits for an answer."""
    writes: float
    swaps: float
    leader_reads: float

    faults: tuple[Fault, ...]
    fault_interval: int
    fault_duration: int
    membership_interval: int
    """0 for a cluster that stays as it is."""
    damage: float
    """The chance that a membership step damages a disk instead."""
    transfer_interval: int
    compaction_interval: int

    @property
    def election_units(self) -> int:
        return self.election_ticks * TICK


def draw_profile(random: Random) -> Profile:
    pick = random.choice
    chance = random.random
    safe = chance() < 0.8
    check_quorum = safe or chance() < 0.4
    lease = pick((Lease.NONE, Lease.LEADER, Lease.LEADER, Lease.LEASE_BASED)) if check_quorum else Lease.NONE
    # A lease is safe with clocks at 0.9 to 1.1 of the right rate from 12 ticks on.
    election_ticks = pick((8, 10, 10, 12)) if lease is Lease.NONE else pick((12, 12, 16))
    message_bytes = pick((1, 100, 400, 1 << 20))
    has = {fault for fault in Fault if chance() < 0.5}
    has.update(_ALWAYS)
    if lease is not Lease.NONE:
        has.difference_update(_BREAKS_LEASES)
    lossy = chance() < 0.5
    profile = Profile(
        size=pick((1, 3, 3, 3, 3, 3, 5, 5, 5)),
        # In parts those entries would be unsafe to replicate: a prefix of them names fewer founders.
        all_bootstrap=message_bytes < _BOOTSTRAP_BYTES or chance() < 0.5,
        election_ticks=election_ticks,
        heartbeat_ticks=pick((1, 2, 2, 3)),
        pre_vote=safe or chance() < 0.4,
        check_quorum=check_quorum,
        lease=lease,
        forwarding=chance() < 0.9,
        turn=pick((0, 0, 60, 400)),
        max_message_bytes=message_bytes,
        max_committed_bytes=pick((1, 200, 1 << 20)),
        max_uncommitted_bytes=pick((150, 1_000, 1 << 20)),
        max_inflight_messages=pick((1, 2, 4, 64)),
        max_inflight_bytes=max(message_bytes, pick((1, 500, 1 << 20))),
        padding=pick((0, 0, 100)),
        delay_min=pick((20, 60, 200)),
        delay_spread=pick((80, 300, 1_000)),
        drop=pick((0.0, 0.01, 0.05)) if lossy else 0.0,
        duplicate=pick((0.0, 0.02, 0.1)) if lossy else 0.0,
        duplicate_spread=pick((1, 10, 30)) * TICK,
        straggle=pick((0.0, 0.01, 0.05)),
        straggle_factor=pick((5, 30)),
        reorder=chance() < 0.5,
        remember=pick((0.0, 0.05)),
        unreachable_told=pick((0.0, 0.1, 0.8)),
        streamed_snapshots=chance() < 0.5,
        snapshot_told=chance() < 0.3,
        fsync_min=pick((10, 50, 300)),
        fsync_spread=pick((50, 300, 1_500)),
        clients=pick((3, 5, 8, 10)),
        keys=pick((1, 2, 4)),
        think=pick((300, 1_000, 2_000, 4_000)),
        patience=pick((4, 10, 40)) * TICK,
        writes=pick((0.3, 0.5, 0.7)),
        swaps=pick((0.0, 0.1, 0.3)),
        leader_reads=0.5 if lease is not Lease.NONE else 0.0,
        faults=tuple(fault for fault in Fault if fault in has),
        fault_interval=pick((4, 8, 16, 40)) * TICK,
        fault_duration=pick((5, 15, 30)) * TICK,
        membership_interval=pick((0, 6, 12, 25)) * TICK,
        damage=pick((0.0, 0.0, 0.1)),
        transfer_interval=pick((0, 10, 40)) * TICK,
        compaction_interval=pick((0, 5, 20)) * TICK,
    )
    if not profile.check_quorum and not profile.pre_vote:
        # A member that was away while others came may stand for ever then, in a higher term of its own:
        # it asks members that are gone, and a leader of a lower term hears nothing from it. So in etcd.
        profile = dataclasses.replace(profile, membership_interval=0)
    return profile
