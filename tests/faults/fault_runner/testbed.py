"""Real nodes on a machine that can be made to fail: what the faults and the workload work with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))

from cluster import Cluster, NodeProcess
from fault_runner.namespaces import Network, NotGranted, SmallDisk, new_network, own_network
from fault_runner.shim import FailingSyncs, FaultPage, build
from fault_runner.switch import Switch

if TYPE_CHECKING:
    from clients import Answer

TOKEN = "only-for-the-fault-runner-71f0c2"
RUNNER_WIRE = 254
PROFILE = "lan"
LOG_KEEP_ENTRIES = "100"  # so few that who was away for a second needs a snapshot

NEEDS_NETWORK = ("partition", "delay", "loss")
NEEDS_DISK = ("disk",)
NEEDS_SHIM = ("fsync", "clock")
ALWAYS = ("kill", "stop", "transfer")
FAULTS = ALWAYS + NEEDS_DISK + NEEDS_SHIM + NEEDS_NETWORK


class FaultyNode(NodeProcess):
    """A node in a network of its own, on a disk of its own, with the shim below it, as far as granted."""

    def __init__(
        self,
        node_id: int,
        data_dir: Path,
        network: Network | None,
        disk: SmallDisk | None,
        library: Path | None,
    ) -> None:
        host = {} if network is None else {"host": network.address}
        super().__init__(node_id, data_dir, profile=PROFILE, **host)
        self.network = network
        self.disk = disk
        self.page = None if library is None else FaultPage(data_dir.with_suffix(".page"), library)
        self.stopped = False
        self.may_end = False
        """Whether it was killed, or something was done to it that must halt it."""

    def start(self) -> None:
        self.may_end = False
        super().start()

    def command(self) -> list[str]:
        enter = [] if self.network is None else self.network.enter()
        return enter + super().command()

    def environment(self) -> dict[str, str]:
        shim = {} if self.page is None else self.page.environment
        own = {"ASPEN_ADMIN_TOKEN": TOKEN, "ASPEN_LOG_KEEP_ENTRIES": LOG_KEEP_ENTRIES}
        return super().environment() | own | shim

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        authorized = {"Authorization": f"Bearer {TOKEN}"} | (headers or {})
        return super().request(method, path, body, authorized, timeout_s)

    def ended_within(self, seconds: float) -> bool:
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    # --- what can be done to it ---------------------------------------------------------------

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.stopped = True

    def shoot(self) -> None:
        """kill -9, without waiting for the end."""
        assert self.process is not None
        self.may_end = True
        self.stopped = False
        self.process.kill()

    def fail_syncs(self, failing: FailingSyncs) -> None:
        assert self.page is not None
        if failing is not FailingSyncs.NONE:
            self.may_end = True
        self.page.fail_syncs(failing)

    def resume(self) -> None:
        if self.stopped and self.alive:
            os.kill(self.pid, signal.SIGCONT)
        self.stopped = False

    def heal(self) -> None:
        """Undo all faults but the death of the process."""
        self.resume()
        if self.disk is not None:
            self.disk.make_room()
        if self.page is not None:
            self.page.fail_syncs(FailingSyncs.NONE)
            self.page.step_clock(0)


class Testbed(Cluster):
    """A cluster of such nodes, and what this machine does not grant."""

    def __init__(self, base: Path, size: int, seed: int, no_namespaces: NotGranted | None) -> None:
        base.mkdir(parents=True, exist_ok=True)
        self.base = base
        self.missing: dict[str, str] = {}
        """Fault → why it can't be had here."""
        networks = self._networks(size, no_namespaces)
        disks = self._disks(size, no_namespaces)
        library = build(base)
        if library is None:
            self._miss(NEEDS_SHIM, "there is no C compiler")
        self.switch: Switch | None = None
        if networks:
            tuns = {int(network.address.rpartition(".")[2]): network.tun for network in networks}
            self.switch = Switch(tuns, seed)
        self.nodes = [
            FaultyNode(
                i + 1,
                base / f"node-{i + 1}",
                networks[i] if networks else None,
                disks[i] if disks else None,
                library,
            )
            for i in range(size)
        ]
        for node in self.nodes:
            node.peers = [other.as_peer for other in self.nodes if other is not node]
        self.nodes[0].init = True

    def __iter__(self) -> Iterator[FaultyNode]:
        return iter(cast(list[FaultyNode], self.nodes))

    def _miss(self, faults: tuple[str, ...], reason: str) -> None:
        self.missing |= dict.fromkeys(faults, reason)

    def _networks(self, size: int, no_namespaces: NotGranted | None) -> list[Network]:
        if no_namespaces is not None:
            self._miss(NEEDS_NETWORK, no_namespaces.reason)
            return []
        try:
            made = [new_network(f"10.77.0.{i + 1}") for i in range(size)]
            return [*made, own_network(f"10.77.0.{RUNNER_WIRE}")]
        except OSError as error:
            self._miss(NEEDS_NETWORK, f"no TUN devices: {error}")
            return []

    def _disks(self, size: int, no_namespaces: NotGranted | None) -> list[SmallDisk]:
        if no_namespaces is not None:
            self._miss(NEEDS_DISK, no_namespaces.reason)
            return []
        try:
            return [SmallDisk(self.base / f"node-{i + 1}") for i in range(size)]
        except PermissionError as error:
            self._miss(NEEDS_DISK, f"no mounts: {error}")
            return []

    def leading(self) -> FaultyNode | None:
        """The node that says it leads, of several the one in the latest term."""
        said = [(node.status(), node) for node in self if node.alive and not node.stopped]
        leaders = [(status["term"], node) for status, node in said if status and status["role"] == "leader"]
        return max(leaders, key=lambda item: item[0])[1] if leaders else None

    def heal(self) -> None:
        """Undo every fault, and start what is dead."""
        if self.switch is not None:
            self.switch.heal()
        for node in self:
            node.heal()
            if not node.alive:
                node.start()

    def end(self) -> None:
        for node in self:
            node.resume()
        super().end()
        for node in self:
            if node.disk is not None:
                node.disk.give_up()


@contextmanager
def testbed(base: Path, size: int, seed: int, no_namespaces: NotGranted | None) -> Iterator[Testbed]:
    """The nodes, started and ready, for the length of a `with`."""
    bed = Testbed(base, size, seed, no_namespaces)
    try:
        bed.start()
        yield bed
    finally:
        bed.end()
