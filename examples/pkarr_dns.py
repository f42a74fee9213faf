"""A public key as a domain: records are signed, put by plain HTTP, and asked for by plain DNS.

Nobody but the key's holder can change them, whoever runs the server. Run it: `python examples/pkarr_dns.py`
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from pathlib import Path

import aiohttp
from dnslib import DNSRecord

from aspen.api import ClusterNode, InitRequest, RaftControlClient
from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.identity import Identity
from aspen.node import bootstrap_node
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message

ORIGIN = "keys.example"


def signed(identity: Identity, *records: str) -> SignedPacket:
    """A packet of records as in a master file; names are relative to the key."""
    message = build_message(identity.endpoint_id, records)
    return SignedPacket.sign(identity, message, timestamp_us=time.time_ns() // 1_000)


async def ask(server: tuple[str, int], name: str, rrtype: str) -> str:
    """What a DNS server answers, in short."""
    query = DNSRecord.question(name, rrtype)
    reply = DNSRecord.parse(await asyncio.to_thread(query.send, *server, timeout=5))
    return ", ".join(str(record.rdata) for record in reply.rr) or reply.get_rcode_name()


async def publish_and_ask(relay: str, dns: tuple[str, int]) -> None:
    identity = Identity.generate()
    website = f"www.{identity.z32}.{ORIGIN}"

    async def put(http: aiohttp.ClientSession, packet: SignedPacket) -> int:
        async with http.put(f"{relay}/{identity.z32}", data=packet.payload) as answer:
            return answer.status

    async with aiohttp.ClientSession() as http:
        first = signed(identity, "www 300 A 192.0.2.1", "@ 300 TXT hello")
        print(f"PUT: {await put(http, first)}")
        print(f"{website} A: {await ask(dns, website, 'A')}")
        print(f"the key's own TXT: {await ask(dns, f'{identity.z32}.{ORIGIN}', 'TXT')}")

        print(f"PUT of newer records: {await put(http, signed(identity, 'www 300 A 192.0.2.2'))}")
        print(f"{website} A: {await ask(dns, website, 'A')}")  # DNS has it when the PUT is answered
        print(f"PUT of the older ones again: {await put(http, first)}")

        forged = bytearray(signed(identity, "www 300 A 203.0.113.66").payload)
        forged[-1] ^= 1
        async with http.put(f"{relay}/{identity.z32}", data=bytes(forged)) as answer:
            print(f"PUT of what the key did not sign: {answer.status}, {(await answer.json())['error']}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = ClusterBootstrapConfig(
            node_id=1,
            data_dir=Path(folder) / "node-1",
            cookie=secrets.token_urlsafe(24),
            http_addr="127.0.0.1:0",
            dns_port=0,
            quic_port=0,
            dns_server=DnsServerConfig(origin=ORIGIN),
            iroh=IrohConfig(enable_gossip=False, enable_mdns=False),
        )
        async with await bootstrap_node(config) as node:
            host, port = node.quic_address
            await RaftControlClient(node).init(InitRequest([ClusterNode(1, f"{host}:{port}")]))
            assert node.dns_address is not None
            await publish_and_ask("http://{}:{}/pkarr".format(*node.http.address), node.dns_address)


if __name__ == "__main__":
    asyncio.run(main())
