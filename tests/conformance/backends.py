"""What the kit runs over: real nodes in this process, and the deterministic cluster."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from aspen.api import ClusterNode, Handle
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig, Profile
from aspen.deterministic import DeterministicCluster
from aspen.identity import Identity
from aspen.node import Node, bootstrap_node

HOST = "127.0.0.1"


class Backend(Protocol):
    async def start(self, count: int = 1) -> list[Any]:
        """That many nodes more, which belong to no cluster."""
        ...

    def named(self, node: Any) -> ClusterNode:
        """The node as requests name it."""
        ...

    async def crash(self, node: Any) -> None:
        """It is gone without a word."""
        ...

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until it is so."""
        ...

    async def close(self) -> None: ...


class Deterministic:
    def __init__(self) -> None:
        self.cluster = DeterministicCluster([], seed=7)
        self._count = 0

    async def start(self, count: int = 1) -> list[Handle]:
        self._count += count
        return [self.cluster.add(n) for n in range(self._count - count + 1, self._count + 1)]

    def named(self, node: Any) -> ClusterNode:
        return ClusterNode(node.node_id, node.address, node.identity.z32)

    async def crash(self, node: Any) -> None:
        self.cluster.crash(node.node_id)

    async def until(self, condition: Callable[[], bool]) -> None:
        assert self.cluster.time.run_until(condition, self.cluster.time.now_ms() + 10_000)

    async def close(self) -> None:
        pass


class Raft:
    """Nodes as `bootstrap_node` makes them, with disks and QUIC between them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cookie = secrets.token_urlsafe(24)
        self._nodes: list[Node] = []

    async def start(self, count: int = 1) -> list[Handle]:
        first = len(self._nodes) + 1
        configs = [self._config(n) for n in range(first, first + count)]
        started = list(await asyncio.gather(*(bootstrap_node(config) for config in configs)))
        self._nodes += started
        return list(started)

    def _config(self, node_id: int) -> ClusterBootstrapConfig:
        return ClusterBootstrapConfig(
            node_id=node_id,
            data_dir=self._folder / f"node-{node_id}",
            cookie=self._cookie,
            http_addr=f"{HOST}:0",
            host=HOST,
            quic_port=0,
            profile=Profile.LAN,
            dns_server=DnsServerConfig(enable=False),
            iroh=IrohConfig(
                secret_key=Identity.generate().seed.hex(), enable_gossip=False, enable_mdns=False
            ),
        )

    def named(self, node: Any) -> ClusterNode:
        host, port = node.quic_address
        return ClusterNode(node.node_id, f"{host}:{port}", node.identity.z32)

    async def crash(self, node: Any) -> None:
        await node.shutdown()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110  no event announces all that is waited for
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        await asyncio.gather(*(node.shutdown() for node in self._nodes))
