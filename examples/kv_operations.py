"""Write, read, scan and delete keys; every read here is linearizable.

Run it: `python examples/kv_operations.py`
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from pathlib import Path

from aspen.api import ClusterNode, InitRequest, KvClient, RaftControlClient, WriteCommand
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.errors import KeyValueStoreError
from aspen.node import bootstrap_node


async def operate(kv: KvClient) -> None:
    await kv.write(WriteCommand.Set("app:name", "Aspen"))
    entry = await kv.read("app:name")
    print(f"app:name = {entry.value.decode()}")

    # Several keys in one entry of the log: all of them, or none.
    await kv.write(
        WriteCommand.SetMulti({"config:timeout": "30", "config:retries": "3", "config:mode": "fast"})
    )
    page = await kv.scan("config:")
    for item in page.entries:
        print(f"{item.key.decode()} = {item.value.decode()}")

    # Revisions tell when a key was made, and when it changed last.
    await kv.write(WriteCommand.Set("app:name", "Aspen 2"))
    changed = await kv.read("app:name")
    print(f"app:name is at version {changed.version}: {changed.value.decode()}")

    await kv.write(WriteCommand.DeleteMulti(("config:timeout", "config:retries")))
    try:
        await kv.read("config:timeout")
    except KeyValueStoreError.NotFound:
        print("config:timeout is gone")


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
            await operate(KvClient(node))


if __name__ == "__main__":
    asyncio.run(main())
