"""How iroh endpoints find each other: one tells where it is, the other knows nothing but its id.

An endpoint signs its addresses (`_iroh` TXT records under its key) and keeps them published at a relay; who
wants to dial it asks that relay, or any DNS server that serves the keys. Here a node in this program is both.
Give `RelayClient` another URL and `PlainDns` another server: the same works with any, iroh's own included.

Run it: `python examples/iroh_discovery.py`
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from pathlib import Path

from aspen.api import ClusterNode, InitRequest, RaftControlClient
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.dns.client import PlainDns
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
            dns_server=DnsServerConfig(origin="endpoints.example"),
            iroh=IrohConfig(enable_gossip=False, enable_mdns=False),
        )
        async with await bootstrap_node(config) as node:
            host, port = node.quic_address
            founder = ClusterNode(1, f"{host}:{port}")
            await RaftControlClient(node).init(InitRequest(initial_members=[founder]))
            assert node.dns_address is not None
            http_host, http_port = node.http.address
            async with RelayClient(f"http://{http_host}:{http_port}/pkarr") as relay:
                await find_and_follow(relay, DnsSource("endpoints.example", PlainDns([node.dns_address])))


async def find_and_follow(relay: RelayClient, dns: DnsSource) -> None:
    identity = Identity.generate()  # `identity.save(path)` would keep it
    where = EndpointInfo(addresses=(("192.0.2.1", 7300),), relay_urls=("https://relay.example./",))

    publisher = Publisher(identity, [relay], lambda: where.records(), wall_us=lambda: time.time_ns() // 1_000)
    publisher.start()  # and again every ten minutes
    async with asyncio.timeout(10):
        await publisher.wait_published()
    print(f"Endpoint {identity.z32} has said where it is")

    by_relay, by_dns = Resolver([relay]), Resolver([], [dns])
    found = await by_relay.resolve(identity.endpoint_id)
    print(f"By relay: {found.info}, verified: {found.verified}")
    found = await by_dns.resolve(identity.endpoint_id)
    print(f"By DNS: {found.info}, verified: {found.verified}")

    where = EndpointInfo(addresses=(("198.51.100.7", 7300),))
    publisher.changed()  # the endpoint has moved
    async with asyncio.timeout(10):
        while found.info != where:
            await asyncio.sleep(0.05)
            found = await by_dns.resolve(identity.endpoint_id)
    print(f"It has moved; by DNS: {found.info}")
    await publisher.close()


if __name__ == "__main__":
    asyncio.run(main())
