"""A cluster of one grows to three, in one program; what one node is told, all of them know.

Usually each node is a process of its own on a machine of its own; `aspen dev --nodes 3` runs them
as three processes on one. Run this: `python examples/multi_node_cluster.py`
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from aspen.api import (
    AddLearnerRequest,
    ChangeMembershipRequest,
    ClusterNode,
    InitRequest,
    KvClient,
    RaftControlClient,
    WriteCommand,
)
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig, Profile
from aspen.identity import Identity
from aspen.node import bootstrap_node

HOST = "127.0.0.1"


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


async def main() -> None:
    cookie = secrets.token_urlsafe(24)
    identities = {node_id: Identity.generate() for node_id in (1, 2, 3)}
    ports = {node_id: free_udp_port() for node_id in identities}

    with tempfile.TemporaryDirectory() as folder:
        configs = [
            ClusterBootstrapConfig(
                node_id=node_id,
                data_dir=Path(folder) / f"node-{node_id}",
                cookie=cookie,
                http_addr=f"{HOST}:0",
                quic_port=ports[node_id],
                profile=Profile.LAN,
                dns_server=DnsServerConfig(enable=False),
                iroh=IrohConfig(secret_key=identity.seed.hex(), enable_gossip=False, enable_mdns=False),
            )
            for node_id, identity in identities.items()
        ]
        async with AsyncExitStack() as stack:
            started = await asyncio.gather(*(bootstrap_node(config) for config in configs))
            nodes = [await stack.enter_async_context(node) for node in started]
            print("Three nodes have started")

            first, *others = [ClusterNode(i, f"{HOST}:{ports[i]}", identities[i].z32) for i in identities]
            control = RaftControlClient(nodes[0])
            await control.init(InitRequest([first]))
            for other in others:
                state = await control.add_learner(AddLearnerRequest(other))
                print(f"Node {other.node_id} is a learner; voters: {list(state.members)}")
            state = await control.change_membership(ChangeMembershipRequest(list(identities)))
            print(f"Voters: {list(state.members)}; leader: node {state.leader_id}")

            # A write may go to any node; it returns once a majority has it on disk.
            await KvClient(nodes[2]).write(WriteCommand.SetMulti({"city": "Zürich", "river": "Limmat"}))
            for node_id, node in zip(identities, nodes, strict=True):
                entry = await KvClient(node).read("city")
                print(f"node {node_id} reads: city = {entry.value.decode()}")


if __name__ == "__main__":
    asyncio.run(main())
