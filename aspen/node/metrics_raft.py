"""What a node tells Prometheus of its part in Raft."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from aspen.errors import NoLeader, NoRoom, OutcomeUnknown, Overloaded
from aspen.metric_shapes import counter, counters, gauge, histogram
from aspen.raft.cluster import Consensus
from aspen.raft.rawnode import Role, Status


def raft_metrics(consensus: Consensus) -> Iterator[Metric]:
    driver = consensus.driver
    status = driver.raw.status()
    role = GaugeMetricFamily("aspen_raft_role", "1 for the role this node has.", labels=["role"])
    for each in Role:
        role.add_metric([each.name.lower()], float(driver.role is each))
    yield role
    yield gauge("aspen_raft_term", "The current term.", driver.raw.term)
    yield gauge("aspen_raft_leader_id", "Node id of the leader; 0 if none is known.", driver.leader_id)
    yield gauge("aspen_raft_members", "Members of the cluster.", len(consensus.roster.members))
    yield gauge("aspen_raft_commit_index", "Highest log index known committed.", driver.raw.commit_index)
    yield gauge("aspen_raft_applied_index", "Log index of the state on disk.", driver.applied_index)
    yield gauge("aspen_raft_last_index", "Highest index in this node's log.", status.last_index)
    yield gauge(
        "aspen_raft_last_contact_seconds",
        "Since a leader was heard from: 0 on the leader, -1 if never.",
        -1.0 if (since_ms := consensus.since_contact_ms()) < 0 else since_ms / 1_000,
    )
    yield gauge("aspen_raft_proposals_pending", "Writes of this node that wait.", len(driver.proposals))
    yield counter("aspen_raft_elections", "Elections in which this node stood.", driver.raw.raft.campaigns)
    yield counter(
        "aspen_raft_leader_changes", "Times a leader took up, seen by this node.", driver.leaders.changes
    )
    yield histogram(
        "aspen_raft_leaderless_seconds",
        "From losing a leader to knowing the next one.",
        driver.leaders.without_seconds,
    )
    yield histogram(
        "aspen_raft_proposal_seconds",
        "Writes of this node: from being asked for to being applied here.",
        driver.proposals.seconds,
    )
    yield counters(
        "aspen_raft_proposal_failures",
        "Writes of this node that failed.",
        "reason",
        driver.proposals.failures,
        (error.code for error in (NoLeader, NoRoom, OutcomeUnknown, Overloaded)),
    )
    yield histogram(
        "aspen_raft_commit_seconds",
        "On the leader: entries, from being appended to being committed.",
        driver.commits.seconds,
    )
    yield histogram(
        "aspen_raft_apply_seconds",
        "Transactions: appending entries and applying commands.",
        driver.writer.apply_seconds,
    )
    yield histogram(
        "aspen_raft_fsync_seconds", "Transactions: the commit to disk.", driver.writer.commit_seconds
    )
    yield from _peers(status)


def _peers(status: Status) -> Iterator[Metric]:
    peers = ["peer"]
    match = GaugeMetricFamily(
        "aspen_raft_peer_match_index", "On the leader: highest index known in a member's log.", labels=peers
    )
    lag = GaugeMetricFamily(
        "aspen_raft_peer_lag_entries", "On the leader: entries a member's log lacks.", labels=peers
    )
    inflight = GaugeMetricFamily(
        "aspen_raft_peer_inflight_messages",
        "On the leader: appends a member has not acknowledged.",
        labels=peers,
    )
    for node_id, progress in sorted(status.progress.items()):
        if node_id != status.node_id:
            match.add_metric([str(node_id)], progress.match)
            lag.add_metric([str(node_id)], max(0, status.last_index - progress.match))
            inflight.add_metric([str(node_id)], progress.inflight_messages)
    yield from (match, lag, inflight)
