"""Zone transfer over TLS (RFC 9103): the same messages, on a connection that nobody else reads."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import dns.message
import dns.rdatatype
import pytest
from primaries import RememberingZone, make_primary

sys.path.insert(0, str(Path(__file__).parent))

from encrypted import SECONDS, ca_file, client_context, run, self_signed

from aspen.dns.lookup import DnsSettings, View
from aspen.dns.sockets import bind_tcp
from aspen.dns.stream import TcpServer
from aspen.tls.listener import TlsListener

HOSTS = 4_000


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    zone = RememberingZone("\n".join(f"host-{i} 300 A 192.0.2.1" for i in range(HOSTS)))
    view = View.build(None, DnsSettings())  # type: ignore[arg-type]  # no packets are asked for
    server = TcpServer(view, encrypted=True, defer=make_primary(zone).stream)
    certificates = self_signed(tmp_path)
    listener = TlsListener(lambda: certificates.context("dot"), lambda _: server.new_connection())
    _, bound = listener.start(bind_tcp("127.0.0.1", 0))
    yield bound
    await listener.close()
    await server.close()


async def test_a_zone_of_many_messages_goes_out_over_tls(port: int, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(tmp_path, "dot"))
    query = dns.message.make_query("zone.example.", "AXFR").to_wire()
    writer.write(len(query).to_bytes(2, "big") + query)
    records = []
    async with asyncio.timeout(SECONDS):
        while len(records) < 2 or records[-1].rdtype != dns.rdatatype.SOA:
            size = int.from_bytes(await reader.readexactly(2), "big")
            message = dns.message.from_wire(await reader.readexactly(size), xfr=True, one_rr_per_rrset=True)
            records += message.answer
    assert len(records) == HOSTS + 5
    writer.close()


@pytest.mark.skipif(shutil.which("kdig") is None, reason="kdig is not installed")
async def test_kdig_transfers_over_tls(port: int, tmp_path: Path) -> None:
    text = await run(
        "kdig",
        "@127.0.0.1",
        "-p",
        str(port),
        f"+tls-ca={ca_file(tmp_path)}",
        "+tls-host=localhost",
        "zone.example.",
        "AXFR",
    )
    assert (
        f"Received {HOSTS + 5} records" in text.replace("RRs", "records") or text.count("192.0.2.1") >= HOSTS
    )
