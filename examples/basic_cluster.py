"""Start a node inside a program, found a cluster of one, look at its state, and end it cleanly.

Run it: `python examples/basic_cluster.py`
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from pathlib import Path

from aspen.api import ClusterNode, InitRequest, RaftControlClient
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.node import bootstrap_node


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = ClusterBootstrapConfig(
            node_id=1,
            data_dir=Path(folder) / "node-1",
            cookie=secrets.token_urlsafe(24),  # the cluster's shared secret; there is no default
            http_addr="127.0.0.1:0",  # port 0: whichever is free
            quic_port=0,
            dns_server=DnsServerConfig(enable=False),
            iroh=IrohConfig(enable_gossip=False, enable_mdns=False),
        )
        async with await bootstrap_node(config) as node:
            print("Node 1 has started")

            cluster = RaftControlClient(node)
            host, port = node.quic_address
            await cluster.init(InitRequest(initial_members=[ClusterNode(1, f"{host}:{port}")]))
            print("Cluster founded, with node 1 as its only member")

            state = await cluster.current_state()
            print(f"Members: {list(state.members)}; leader: node {state.leader_id} in term {state.term}")
        print("Node 1 has ended")


if __name__ == "__main__":
    asyncio.run(main())
