"""What comes before a node's start, and what follows it, when it is to get into a cluster by itself.

`enter` comes first and leaves it in writing what the node is to be; `see_in` sees to the rest while it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import structlog

from aspen.config import ClusterBootstrapConfig
from aspen.config.joined import JOINED_FILE, read_joined, with_joined, write_joined
from aspen.errors import ConfigError
from aspen.identity import Identity
from aspen.logs import never_show
from aspen.node.founding import RECORD_FILE, AutoCluster
from aspen.node.join import Ascent, Newcomer, Report
from aspen.raft.cluster import Consensus
from aspen.raft.roster import NO_CLUSTER, Roster
from aspen.raft.storage import LmdbLog
from aspen.state.store import Store

log = structlog.get_logger("aspen.join")


def log_report(line: str) -> None:
    """A `Report` into the node's log."""
    log.info("joining", says=line)


async def enter(
    config: ClusterBootstrapConfig, identity: Identity, store: Store, protocol_version: int, report: Report
) -> ClusterBootstrapConfig:
    """The configuration to start with; of a node that is to join or found a cluster, once that is settled.

    Raises `JoinError`, and `ConfigError` for a ticket that is of no use with these settings, or if this node
    was let into another cluster than that whose data it has.
    """
    _check_cluster(config.data_path, LmdbLog(store).roster)
    is_new = read_joined(config.data_path) is None and not _has_log(store)
    if not is_new or not (config.ticket or config.auto_cluster):
        return config
    newcomer = Newcomer(config, identity, protocol_version, report)
    if config.ticket:
        joined, port = await newcomer.join(config.ticket)
    else:
        joined, port = await AutoCluster(config, identity, protocol_version, newcomer, report).run()
    never_show([joined.cookie])
    write_joined(config.data_path, joined)
    # What was promised is fulfilled. Without its log this node must not take itself for what it was.
    (config.data_path / RECORD_FILE).unlink(missing_ok=True)
    if "node" in structlog.contextvars.get_contextvars():
        structlog.contextvars.bind_contextvars(node=joined.node_id)
    # The port whose address the others know; whatever it was, it was free a moment ago.
    return with_joined(config).replace(quic_port=port)


def joined_cluster(data_dir: Path) -> bytes:
    """The cluster that let this node in; `NO_CLUSTER` if none has, or its id was not known yet."""
    joined = read_joined(data_dir)
    return bytes.fromhex(joined.cluster_id) if joined is not None and joined.cluster_id else NO_CLUSTER


def _check_cluster(data_dir: Path, roster: Roster) -> None:
    """A file of one node beside the data of another: which of them is meant only their owner can know."""
    joined = joined_cluster(data_dir)
    if NO_CLUSTER not in (joined, roster.cluster_id) and joined not in (
        roster.cluster_id,
        *roster.former_clusters,
    ):
        raise ConfigError(
            f"{data_dir / JOINED_FILE}: it is of the cluster {joined.hex()}, and the data beside it "
            f"of {roster.cluster_id.hex()}: one of them was put there by mistake; put back the right one, or "
            "have the node join anew with an empty data directory"
        )


def _has_log(store: Store) -> bool:
    """Whether the node belongs to a cluster, or has begun to."""
    storage = LmdbLog(store)
    return storage.hard_state.term > 0 or storage.last_index() > 0


def see_in(
    consensus: Consensus, config: ClusterBootstrapConfig, report: Report
) -> Callable[[], Coroutine[None, None, None]]:
    """On a node that was let in: see to the rest while it runs. Await what this returns to end it."""
    task: asyncio.Task[None] | None = None
    if read_joined(config.data_path) is not None:

        def wants_vote(voters: int) -> bool:
            # Whoever comes too late for a cluster of so many takes the place of one that is missing.
            return not config.learner and (not config.auto_cluster or voters < config.auto_cluster)

        ascent = Ascent(consensus, wants_vote=wants_vote, report=report)
        task = asyncio.create_task(ascent.run(), name="ascent")

    async def end() -> None:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return end
