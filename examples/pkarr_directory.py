"""Keep a key's records published at a relay, and find them again: signed, by relay, and by DNS.

The relay is a node inside this program; give `RelayClient` another URL and `DnsSource` another server, and
the same works with any. Run it: `python examples/pkarr_directory.py`
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from pathlib import Path

from aspen.api import ClusterNode, InitRequest, RaftControlClient
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.identity import Identity
from aspen.node import bootstrap_node
from aspen.pkarr.dns_client import DnsSource
from aspen.pkarr.endpoint_info import EndpointInfo
from aspen.pkarr.publisher import Publisher
from aspen.pkarr.relay_client import RelayClient
from aspen.pkarr.resolver import Resolver


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = ClusterBootstrapConfig(
            node_id=1,
            data_dir=Path(folder) / "node-1",
            cookie=secrets.token_urlsafe(24),
            http_addr="127.0.0.1:0",
            dns_port=0,
            quic_port=0,
            dns_server=DnsServerConfig(origin="keys.example"),
            iroh=IrohConfig(enable_gossip=False, enable_mdns=False),
        )
        async with await bootstrap_node(config) as node:
            host, port = node.quic_address
            founder = ClusterNode(1, f"{host}:{port}")
            await RaftControlClient(node).init(InitRequest(initial_members=[founder]))
            assert node.dns_address is not None
            http_host, http_port = node.http.address
            async with RelayClient(f"http://{http_host}:{http_port}/pkarr") as relay:
                await publish_and_find(relay, DnsSource("keys.example", [node.dns_address]))


async def publish_and_find(relay: RelayClient, dns: DnsSource) -> None:
    identity = Identity.generate()  # `identity.save(path)` would keep it
    info = EndpointInfo(addresses=(("192.0.2.1", 7300),), relay_urls=("https://relay.example./",))
    publisher = Publisher(identity, [relay], info.records, wall_us=lambda: time.time_ns() // 1_000)
    publisher.start()  # and again every ten minutes, and whenever `publisher.changed()` is called
    async with asyncio.timeout(10):
        await publisher.wait_published()
    print(f"Published under {identity.z32}")

    found = await Resolver([relay]).resolve(identity.endpoint_id)
    print(f"By relay: {found.info}, verified: {found.verified}")

    found = await Resolver([], [dns]).resolve(identity.endpoint_id)
    print(f"By DNS: {found.info}, verified: {found.verified}")
    await publisher.close()


if __name__ == "__main__":
    asyncio.run(main())
