"""Two workers, one lock: when the first dies without a word, the second has it, with a greater token.

The workers talk to the node over HTTP, as they would from other machines. Run it:
`python examples/kv_coordination.py`
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from pathlib import Path

from aspen.api import ClusterNode, InitRequest, RaftControlClient
from aspen.client import Client, Lock, Session
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.node import bootstrap_node


async def work(addr: str) -> None:
    async with Client([addr]) as client, Session(client, ttl_ms=1_000) as second:
        first = await Session(client, ttl_ms=1_000).__aenter__()
        token = await Lock(first, b"jobs/lock").acquire()
        print("The first worker has the lock")

        waiting = asyncio.create_task(Lock(second, b"jobs/lock").acquire())
        await first.abandon()  # as if its process had been killed
        greater = await waiting
        print(f"The second worker has the lock; its token is greater: {greater > token}")
        await Lock(second, b"jobs/lock").release()


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = ClusterBootstrapConfig(
            node_id=1,
            data_dir=Path(folder) / "node-1",
            cookie=secrets.token_urlsafe(24),
            http_addr="127.0.0.1:0",
            quic_port=0,
            dns_server=DnsServerConfig(enable=False),
            iroh=IrohConfig(enable_gossip=False, enable_mdns=False),
        )
        async with await bootstrap_node(config) as node:
            host, port = node.quic_address
            await RaftControlClient(node).init(InitRequest([ClusterNode(1, f"{host}:{port}")]))
            await work("http://{}:{}".format(*node.http.address))


if __name__ == "__main__":
    asyncio.run(main())
