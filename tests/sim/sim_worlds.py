"""Worlds for tests: nothing goes wrong in them unless the test makes it."""

from __future__ import annotations

import dataclasses
from random import Random
from typing import Any

from raft_sim.kernel import TICK
from raft_sim.node import Node
from raft_sim.profile import Lease, Profile, draw_profile
from raft_sim.world import World

LARGE = 1 << 20


def calm_profile(**changes: Any) -> Profile:
    calm = dataclasses.replace(
        draw_profile(Random(1)),
        size=3,
        all_bootstrap=True,
        election_ticks=10,
        heartbeat_ticks=2,
        pre_vote=True,
        check_quorum=True,
        lease=Lease.NONE,
        forwarding=True,
        turn=0,
        max_message_bytes=LARGE,
        max_committed_bytes=LARGE,
        max_uncommitted_bytes=LARGE,
        max_inflight_messages=64,
        max_inflight_bytes=LARGE,
        padding=0,
        delay_min=50,
        delay_spread=100,
        drop=0.0,
        duplicate=0.0,
        straggle=0.0,
        remember=0.0,
        reorder=False,
        unreachable_told=0.0,
        streamed_snapshots=False,
        fsync_min=50,
        fsync_spread=100,
        faults=(),
        damage=0.0,
    )
    return dataclasses.replace(calm, **changes)


def calm_world(seed: int = 1, **changes: Any) -> World:
    """Founded; nobody asks anything of it, and nobody troubles it."""
    world = World(seed, profile=calm_profile(**changes))
    world.found()
    return world


def led_world(seed: int = 1, **changes: Any) -> tuple[World, Node]:
    """A calm world whose nodes all follow one leader and are level."""
    world = calm_world(seed, **changes)
    assert world.run_until(lambda: _level(world), 100 * TICK)
    leader = world.leader()
    assert leader is not None
    return world, leader


def _level(world: World) -> bool:
    last = len(world.invariants.committed) - 1
    return world.leader() is not None and all(
        node.raft.leader_id and node.applied == last > world.profile.size for node in world.nodes.values()
    )


def followers(world: World) -> list[Node]:
    return [node for node in world.nodes.values() if not node.leads]
