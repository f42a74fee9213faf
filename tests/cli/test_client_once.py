"""A request leaves once: what a write did before the connection broke is for the caller to find out."""

from __future__ import annotations

import asyncio

import pytest

from aspen.client import NodeClient
from aspen.errors import ClientOutcomeUnknown, ClientUnavailable


async def test_a_write_without_an_answer_is_not_sent_again() -> None:
    received: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, NodeClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(ClientOutcomeUnknown):
            await client.kv_put(b"k", b"v")
        with pytest.raises(ClientOutcomeUnknown):
            await client.kv_delete(b"k")
        assert [request.split(b" ")[0] for request in received] == [b"PUT", b"DELETE"]
        with pytest.raises(ClientUnavailable):
            await client.kv_get(b"k")
        assert len(received) == 3
