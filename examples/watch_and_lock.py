"""Two workers, one lock, and somebody who watches: when the first dies without a word, the second has the
lock, with a greater token.

All of them talk to the node over HTTP, as they would from other machines. Run it:
`python examples/watch_and_lock.py`
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


async def watch(client: Client, start: int) -> None:
    """Tell every change under `jobs/`, in order, until the last job is done."""
    async for told in client.kv_watch(b"jobs/", start=start):
        for change in told.changes:
            key, value = change.key.decode(), change.value.decode()
            print(f"  revision {told.revision}: {change.type} {key} {value}")
            if change.key == b"jobs/last" and change.value == b"done by the second":
                return


async def work(client: Client) -> None:
    async with Session(client, ttl_ms=1_000) as second:
        first = await Session(client, ttl_ms=1_000).__aenter__()
        token = await Lock(first, b"jobs/lock", b"first").acquire()
        print("The first worker has the lock")
        await client.kv_put(b"jobs/last", b"begun by the first")

        waiting = asyncio.create_task(Lock(second, b"jobs/lock", b"second").acquire())
        await first.abandon()  # as if its process had been killed
        greater = await waiting
        print(f"The second worker has the lock; its token is greater: {greater > token}")
        await client.kv_put(b"jobs/last", b"done by the second")
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
            async with Client(["http://{}:{}".format(*node.http.address)]) as client:
                revision = (await client.kv_put(b"jobs/last", b"none yet")).revision
                async with asyncio.timeout(30):
                    await asyncio.gather(watch(client, revision), work(client))


if __name__ == "__main__":
    asyncio.run(main())
