"""How this node is: everything that can go wrong with it, looked at one by one.

Each check is a small function of what it looks at, and says what is wrong with the figures that show it.
docs/operating.md lists them with what to do. Asked by HTTP, by `aspen health`, and by the service manager's
watchdog (`vital`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Final, Protocol

import lmdb

from aspen.config import ClusterBootstrapConfig
from aspen.discovery.announcement import Announcement
from aspen.dns.pulses import Pulses
from aspen.errors import StorageError
from aspen.http.health import Check, Health, HealthState
from aspen.limits import (
    CERTIFICATE_WARN_PART,
    CERTIFICATE_WARN_S,
    CLOCK_DIFFERENCE_MS,
    DISK_UNHEALTHY_PERCENT,
    DISK_WARN_PERCENT,
    DNS_WORKER_RESTART_SHOWN_MS,
    RAFT_READY_LAG_ENTRIES,
    WRITER_STUCK_MS,
)
from aspen.node.discovery import Discovery
from aspen.node.dns import NodeDns
from aspen.raft.cluster import Consensus
from aspen.raft.driver import RaftDriver
from aspen.raft.ports import Clock
from aspen.state.store import Store
from aspen.tls.certificates import Certificates

_DEGRADED: Final = HealthState.DEGRADED
_UNHEALTHY: Final = HealthState.UNHEALTHY
_DAY_S: Final = 86_400


def check_writer(driver: RaftDriver) -> Check:
    """What makes things durable. Nothing is acknowledged while it stands still."""
    name = "writer"
    if driver.failure is not None:
        return Check(name, _UNHEALTHY, f"this node stops: {driver.failure}")
    if not driver.writer.alive:
        return Check(name, _UNHEALTHY, "the writer thread has ended")
    if (busy_ms := driver.writer.busy_ms) > WRITER_STUCK_MS:
        return Check(name, _UNHEALTHY, f"one transaction has taken {busy_ms / 1000:.0f} s: the disk hangs")
    return Check(name)


def check_workers(pulses: Pulses, started: bool, now_ms: int) -> Check:
    """The processes that answer DNS over UDP."""
    name = "workers"
    silent = pulses.silent(now_ms)
    if silent:
        which = ", ".join(map(str, silent))
        worst = _UNHEALTHY if len(silent) == pulses.workers else _DEGRADED
        return Check(name, worst, f"UDP workers that give no sign of life: {which} of {pulses.workers}")
    if not started:
        return Check(name, _DEGRADED, "the UDP workers are starting")
    restarted_ms = pulses.last_restart_ms
    if restarted_ms is not None and now_ms - restarted_ms < DNS_WORKER_RESTART_SHOWN_MS:
        return Check(
            name, _DEGRADED, f"a UDP worker was started again {(now_ms - restarted_ms) // 1000} s ago"
        )
    return Check(name)


def check_membership(consensus: Consensus) -> Check:
    if consensus.removed:
        return Check("membership", _UNHEALTHY, "this node was removed from the cluster")
    if not consensus.roster.members:
        return Check("membership", _DEGRADED, "this node belongs to no cluster yet")
    return Check("membership")


def check_leader(consensus: Consensus) -> Check:
    if consensus.removed or not consensus.roster.members or consensus.driver.leader_id:
        return Check("leader")
    return Check("leader", _DEGRADED, "no leader is known")


def check_replica(consensus: Consensus, out_of_touch_ms: int, max_stale_ms: int) -> Check:
    """How old what is answered may be. `out_of_touch_ms`: since this node led, or heard a leader."""
    driver = consensus.driver
    behind = driver.raw.commit_index - driver.applied_index
    if behind > RAFT_READY_LAG_ENTRIES:
        return Check("replica", _DEGRADED, f"catching up: {behind} entries behind")
    if max_stale_ms and out_of_touch_ms > max_stale_ms:
        return Check(
            "replica",
            _DEGRADED,
            f"out of touch with the cluster for {out_of_touch_ms // 1000} s: a stale copy",
        )
    return Check("replica")


def check_disk(data_dir: Path, driver: RaftDriver) -> Check:
    if driver.room.error is not None:
        return Check("disk", _UNHEALTHY, f"no room: {driver.room.error}")
    try:
        disk = os.statvfs(data_dir)
    except OSError as error:
        return Check("disk", _UNHEALTHY, f"the data directory can't be looked at: {error.strerror}")
    used = disk.f_blocks - disk.f_bfree
    return _filling("disk", "the disk of the data directory", used, used + disk.f_bavail)


def check_map(store: Store) -> Check:
    """LMDB's map: as large as the store can become."""
    try:
        info = store.environment.info()
        used = (info["last_pgno"] + 1) * store.environment.stat()["psize"]
    except (StorageError, lmdb.Error):
        return Check("map")  # between two environments
    return _filling("map", "the store's map", used, info["map_size"])


def _filling(name: str, what: str, used: int, size: int) -> Check:
    percent = 100 * used / size if size else 0.0
    if percent < DISK_WARN_PERCENT:
        return Check(name)
    worst = _UNHEALTHY if percent >= DISK_UNHEALTHY_PERCENT else _DEGRADED
    return Check(name, worst, f"{what} is {percent:.0f} % full")


def check_certificate(certificates: Certificates | None, wall_s: float) -> Check:
    """Of HTTPS, DoT and DoQ. Certificates of short life are due later."""
    name = "certificate"
    if certificates is None:
        return Check(name)
    bundle = certificates.bundle
    left_s = bundle.not_after_s - wall_s
    if left_s <= 0:
        return Check(name, _UNHEALTHY, f"the certificate ended {-left_s / _DAY_S:.1f} days ago")
    if left_s < min(CERTIFICATE_WARN_S, (bundle.not_after_s - bundle.not_before_s) * CERTIFICATE_WARN_PART):
        return Check(name, _DEGRADED, f"the certificate ends in {left_s / _DAY_S:.1f} days")
    return Check(name)


def check_clock(heard: Iterable[tuple[Announcement, int]]) -> Check:
    """This clock beside those of the others, by what they announced and when that came here."""
    differences = [at_ms - announcement.timestamp_us / 1000 for announcement, at_ms in heard]
    if not differences or abs(off_ms := median(differences)) < CLOCK_DIFFERENCE_MS:
        return Check("clock")
    way = "ahead of" if off_ms > 0 else "behind"
    return Check("clock", _DEGRADED, f"this clock is {abs(off_ms) / 1000:.1f} s {way} the other nodes'")


class Watched(Protocol):
    """The parts of a running node (`aspen.node.Node`)."""

    config: ClusterBootstrapConfig
    consensus: Consensus
    discovery: Discovery
    certificates: Certificates | None
    dns: NodeDns | None


class NodeHealth:
    """`aspen.http.health.HealthView` over the running parts."""

    def __init__(self, node: Watched, store: Store, clock: Clock) -> None:
        self._node = node
        self._store = store
        self._clock = clock

    def vital(self) -> list[Check]:
        """What must work for the process to be worth keeping."""
        node = self._node
        checks = [check_writer(node.consensus.driver)]
        if node.dns is not None:
            checks.append(check_workers(node.dns.pulses, node.dns.started, self._clock.monotonic_ms()))
        return checks

    @property
    def alive(self) -> bool:
        return all(check.status is not _UNHEALTHY for check in self.vital())

    def health(self) -> Health:
        node = self._node
        consensus, config, vital = node.consensus, node.config, self.vital()
        out_of_touch_ms = 0 if node.dns is None else node.dns.out_of_touch_ms()
        able = [
            check_membership(consensus),
            check_leader(consensus),
            check_replica(consensus, out_of_touch_ms, config.dns_server.max_stale_ms),
        ]
        disk = check_disk(config.data_path, consensus.driver)
        alive = all(check.status is not _UNHEALTHY for check in vital)
        answers = alive and node.dns is not None and node.dns.started and not node.dns.refuses
        return Health(
            checks=(
                *vital,
                *able,
                disk,
                check_map(self._store),
                check_certificate(node.certificates, self._clock.wall_ms() / 1000),
                check_clock(node.discovery.gossip.core.known.values()),
            ),
            alive=alive,
            answers=answers,
            ready=(answers or node.dns is None)
            and alive
            and consensus.driver.room.error is None
            and all(check.status is HealthState.HEALTHY for check in able),
        )
