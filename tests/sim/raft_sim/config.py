"""The settings of a simulated node's Raft core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft_sim.profile import Lease

from aspen.raft.rawnode import RaftConfig, ReadOnlyOption

if TYPE_CHECKING:
    from raft_sim.node import Node


def raft_config(node: Node) -> RaftConfig:
    profile = node.world.profile
    lease = profile.lease
    return RaftConfig(
        node_id=node.node_id,
        storage=node.disk,
        rng=node.random,
        election_ticks=profile.election_ticks,
        heartbeat_ticks=profile.heartbeat_ticks,
        applied=node.disk.applied,
        async_storage_writes=True,
        max_message_bytes=profile.max_message_bytes,
        max_committed_bytes_per_ready=profile.max_committed_bytes,
        max_uncommitted_bytes=profile.max_uncommitted_bytes,
        max_inflight_messages=profile.max_inflight_messages,
        max_inflight_bytes=profile.max_inflight_bytes,
        check_quorum=profile.check_quorum,
        pre_vote=profile.pre_vote,
        read_only_option=ReadOnlyOption.LEASE_BASED if lease is Lease.LEASE_BASED else ReadOnlyOption.SAFE,
        leader_lease=lease is Lease.LEADER,
        disable_proposal_forwarding=not profile.forwarding,
        step_down_on_removal=True,
    )
