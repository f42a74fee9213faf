"""A certificate that changes under a running server: new connections get it, the others go on."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from pathlib import Path

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aspen.dns.lookup import DnsSettings, View
from aspen.dns.sockets import bind_tcp, bind_udp
from aspen.dns.stream import Answers, TcpServer
from aspen.identity import Identity
from aspen.tls.certificates import Bundle, Certificates
from aspen.tls.doq import DoqServer
from aspen.tls.listener import TlsListener
from aspen.tls.sources import Files, make_self_signed

QUERY = bytes.fromhex("00000100000100000000000005617370656e056c6f63616c0000060001")  # aspen.local SOA


class NoRecords:
    def packet_answers(self, public_key: bytes) -> bytes | None:
        return None


def write(folder: Path, name: str) -> Bundle:
    """Both files anew; the key first, as careful tools do it."""
    key = ec.generate_private_key(ec.SECP256R1())
    bundle = Bundle((make_self_signed(key, [name], time.time()),), key)
    for file, content in (("key.pem", bundle.key_pem), ("chain.pem", bundle.chain_pem)):
        (folder / "new").write_bytes(content)
        os.replace(folder / "new", folder / file)
    return bundle


def der(bundle: Bundle) -> bytes:
    return bundle.chain[0].public_bytes(serialization.Encoding.DER)


def trusting_anyone() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(len(QUERY).to_bytes(2, "big") + QUERY)
    async with asyncio.timeout(30):
        size = int.from_bytes(await reader.readexactly(2), "big")
        assert (await reader.readexactly(size))[7] == 1  # one answer


async def test_connections_stand_and_new_ones_see_the_new_certificate(tmp_path: Path) -> None:
    first = write(tmp_path, "first.example")
    certificates = Certificates(Files(tmp_path / "chain.pem", tmp_path / "key.pem"))
    view = View.build(NoRecords(), DnsSettings())
    dot = TcpServer(view, encrypted=True)
    listener = TlsListener(lambda: certificates.context("dot"), lambda _: dot.new_connection())
    _, port = listener.start(bind_tcp("127.0.0.1", 0))
    doq = DoqServer(Answers(view), certificates, Identity.generate())
    _, quic_port = doq.start(bind_udp("127.0.0.1", 0, 1)[0])

    async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting_anyone())
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return reader, writer, shown

    async def shown_by_quic() -> bytes:
        configuration = QuicConfiguration(alpn_protocols=["doq"], verify_mode=ssl.CERT_NONE)
        async with connect("127.0.0.1", quic_port, configuration=configuration) as client:
            assert isinstance(client, QuicConnectionProtocol)
            certificate = client._quic.tls._peer_certificate
            assert certificate is not None
            return certificate.public_bytes(serialization.Encoding.DER)

    try:
        reader, writer, shown = await connected()
        assert shown == der(first) == await shown_by_quic()
        await ask(reader, writer)

        second = write(tmp_path, "second.example")
        assert certificates.refresh()
        await ask(reader, writer)  # this one stands
        new_reader, new_writer, shown = await connected()
        assert shown == der(second) == await shown_by_quic()
        await ask(new_reader, new_writer)

        (tmp_path / "chain.pem").write_bytes(b"half a file")
        assert not certificates.refresh()
        *others, shown = await connected()
        assert shown == der(second)
        for each in (writer, new_writer, others[1]):
            each.close()
    finally:
        doq.close()
        await listener.close()
        await dot.close()
