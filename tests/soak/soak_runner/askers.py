"""How DNS is asked over each transport: a kept connection to one node, one query at a time on it."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Protocol

import aiohttp
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived, StreamReset
from clients import HOST
from cluster import NodeProcess

DNS_MESSAGE: Final = "application/dns-message"


class Asker(Protocol):
    """Raises `OSError`, `EOFError` or `ConnectionError` when there is no answer."""

    async def ask(self, query: bytes) -> bytes: ...

    async def close(self) -> None: ...


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.waiting: dict[bytes, asyncio.Future[bytes]] = {}

    def datagram_received(self, data: bytes, addr: Any) -> None:
        future = self.waiting.pop(data[:2], None)
        if future is not None and not future.done():
            future.set_result(data)

    def error_received(self, exc: OSError) -> None:
        """Nobody is bound there (ICMP)."""
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(exc)


class Udp:
    def __init__(self, transport: asyncio.DatagramTransport, protocol: _Datagrams) -> None:
        self._transport, self._protocol = transport, protocol

    @classmethod
    async def open(cls, node: NodeProcess) -> Udp:
        loop = asyncio.get_running_loop()
        return cls(*await loop.create_datagram_endpoint(_Datagrams, remote_addr=(HOST, node.dns_port)))

    async def ask(self, query: bytes) -> bytes:
        future = asyncio.get_running_loop().create_future()
        self._protocol.waiting[query[:2]] = future
        try:
            self._transport.sendto(query)
            return await future
        finally:
            self._protocol.waiting.pop(query[:2], None)

    async def close(self) -> None:
        self._transport.close()


class Stream:
    """Over TCP, or TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, node: NodeProcess, *, tls: bool) -> Stream:
        if not tls:
            return cls(*await asyncio.open_connection(HOST, node.dns_port))
        context, port = trusting(node), https_port(node, "DOT_PORT")
        return cls(*await asyncio.open_connection(HOST, port, ssl=context, server_hostname="localhost"))

    async def ask(self, query: bytes) -> bytes:
        self._writer.write(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await self._reader.readexactly(2), "big")
        return await self._reader.readexactly(length)

    async def close(self) -> None:
        self._writer.close()


class Https:
    def __init__(self, stack: AsyncExitStack, session: aiohttp.ClientSession, url: str) -> None:
        self._stack, self._session, self._url = stack, session, url

    @classmethod
    async def open(cls, node: NodeProcess) -> Https:
        stack = AsyncExitStack()
        connector = aiohttp.TCPConnector(ssl=trusting(node))
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        return cls(stack, session, f"https://localhost:{https_port(node, 'PORT')}/dns-query")

    async def ask(self, query: bytes) -> bytes:
        headers = {"Content-Type": DNS_MESSAGE, "Accept": DNS_MESSAGE}
        try:
            async with self._session.post(self._url, data=query, headers=headers) as response:
                body = await response.read()
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error)) from None
        if response.status != 200:
            raise ConnectionError(f"status {response.status}")
        return body

    async def close(self) -> None:
        await self._stack.aclose()


class _QuicClient(QuicConnectionProtocol):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._streams: dict[int, tuple[bytearray, asyncio.Future[bytes]]] = {}

    async def exchange(self, message: bytes) -> bytes:
        stream_id = self._quic.get_next_available_stream_id()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._streams[stream_id] = (bytearray(), future)
        self._quic.send_stream_data(stream_id, message, end_stream=True)
        self.transmit()
        try:
            return await future
        finally:
            self._streams.pop(stream_id, None)

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived) and event.stream_id in self._streams:
            received, future = self._streams[event.stream_id]
            received += event.data
            if event.end_stream and not future.done():
                future.set_result(bytes(received))
        elif isinstance(event, StreamReset | ConnectionTerminated):
            for _, future in self._streams.values():
                if not future.done():
                    future.set_exception(ConnectionError("the connection or the stream was ended"))


class Quic:
    """RFC 9250: each query on a stream of its own, its message id 0."""

    def __init__(self, stack: AsyncExitStack, client: _QuicClient) -> None:
        self._stack, self._client = stack, client

    @classmethod
    async def open(cls, node: NodeProcess) -> Quic:
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["doq"], server_name="localhost")
        configuration.load_verify_locations(str(ca_file(node)))
        stack = AsyncExitStack()
        port = https_port(node, "DOQ_PORT")
        opening = connect(HOST, port, configuration=configuration, create_protocol=_QuicClient)
        client = await stack.enter_async_context(opening)
        assert isinstance(client, _QuicClient)
        return cls(stack, client)

    async def ask(self, query: bytes) -> bytes:
        message = b"\0\0" + query[2:]
        answer = await self._client.exchange(len(message).to_bytes(2, "big") + message)
        if len(answer) < 2 or int.from_bytes(answer[:2], "big") != len(answer) - 2:
            raise EOFError("the answer is not whole")
        return query[:2] + answer[4:]

    async def close(self) -> None:
        await self._stack.aclose()


OPEN: Final = {
    "UDP": Udp.open,
    "TCP": partial(Stream.open, tls=False),
    "TLS": partial(Stream.open, tls=True),
    "HTTPS": Https.open,
    "QUIC": Quic.open,
}


def https_port(node: NodeProcess, name: str) -> int:
    return int(node.settings[f"ASPEN_DNS_SERVER_HTTPS_CONFIG_{name}"])


def ca_file(node: NodeProcess) -> Any:
    return node.data_dir / "tls" / "self-signed.pem"


def trusting(node: NodeProcess) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file(node))
