"""A service registry: instances register under a lease, a catalogue keeps DNS in step, clients ask DNS.

An instance that stops renewing its lease is gone from the registry and, with it, from DNS, whatever it died
of. The pieces are ordinary ones: keys with leases, a watch, and a zone. Run it:
`python examples/consul_style_service.py`
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from pathlib import Path

from dnslib import DNSRecord

from aspen.api import ClusterNode, InitRequest, RaftControlClient
from aspen.client import NodeClient, NodeZones, Session
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.node import bootstrap_node

ZONE = "service.example"
SERVICES = b"services/"


async def register(client: NodeClient, service: str, instance: str, address: str, port: int) -> Session:
    """An instance is there as long as its session is kept alive."""
    session = await Session(client, ttl_ms=1_500).__aenter__()
    value = json.dumps({"address": address, "port": port}).encode()
    await client.kv_put(SERVICES + f"{service}/{instance}".encode(), value, lease=session.lease)
    return session


async def catalogue(client: NodeClient, zones: NodeZones) -> None:
    """After every change, write what is registered into the zone: SRV for the service, A for each instance.

    It is one leader's work in a real cluster (`aspen.client.Election`); doing it twice does no harm.
    """
    await zones.create({"name": ZONE, "nameservers": ["ns"], "records": [_records("ns", "A", "127.0.0.1")]})
    written: set[str] = set()
    async for _ in client.kv_watch(SERVICES):  # the first sign of life comes at once
        srv: dict[str, list[str]] = {}
        changes: list[dict[str, object]] = []
        for entry in (await client.kv_scan(SERVICES)).entries:
            service, instance = entry.key.removeprefix(SERVICES).decode().split("/")
            told = json.loads(entry.value)
            host = f"{instance}.{service}"
            changes.append({"op": "set", **_records(host, "A", told["address"])})
            srv.setdefault(f"_{service}._tcp", []).append(f"0 10 {told['port']} {host}")
        changes += [{"op": "set", **_records(name, "SRV", *data)} for name, data in srv.items()]
        names = {str(change["name"]) for change in changes}
        changes += [{"op": "delete", "name": name} for name in sorted(written - names)]
        if changes:
            await zones.change(ZONE, changes)
        written = names


def _records(name: str, rrtype: str, *data: str) -> dict[str, object]:
    return {"name": name, "type": rrtype, "ttl": 60, "data": list(data)}


async def instances(server: tuple[str, int], service: str) -> list[str]:
    """What a client finds: `host:port` of each instance."""
    query = DNSRecord.question(f"_{service}._tcp.{ZONE}", "SRV")
    reply = DNSRecord.parse(await asyncio.to_thread(query.send, *server, timeout=5))
    return sorted(f"{str(record.rdata.target).rstrip('.')}:{record.rdata.port}" for record in reply.rr)


async def until(server: tuple[str, int], service: str, count: int) -> None:
    async with asyncio.timeout(30):
        while len(found := await instances(server, service)) != count:  # noqa: ASYNC110 (nothing to wait for)
            await asyncio.sleep(0.1)  # DNS tells nobody of changes
    print(f"  {service}: {', '.join(found) or 'nobody'}")


async def run(addr: str, dns: tuple[str, int]) -> None:
    async with NodeClient(addr) as client:
        keeper = asyncio.create_task(catalogue(client, NodeZones(client)))
        print("Two instances register:")
        one = await register(client, "web", "one", "192.0.2.1", 8001)
        two = await register(client, "web", "two", "192.0.2.2", 8002)
        await until(dns, "web", 2)

        print("One dies without a word:")
        await one.abandon()
        await until(dns, "web", 1)

        print("The other says goodbye:")
        await two.__aexit__(None, None, None)
        await until(dns, "web", 0)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = ClusterBootstrapConfig(
            node_id=1,
            data_dir=Path(folder) / "node-1",
            cookie=secrets.token_urlsafe(24),
            http_addr="127.0.0.1:0",
            dns_port=0,
            quic_port=0,
            dns_server=DnsServerConfig(),
            iroh=IrohConfig(enable_gossip=False, enable_mdns=False),
        )
        async with await bootstrap_node(config) as node:
            host, port = node.quic_address
            await RaftControlClient(node).init(InitRequest([ClusterNode(1, f"{host}:{port}")]))
            assert node.dns_address is not None
            await run("http://{}:{}".format(*node.http.address), node.dns_address)


if __name__ == "__main__":
    asyncio.run(main())
