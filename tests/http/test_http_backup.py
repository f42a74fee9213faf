"""`GET /v1/cluster/backup`: sent piece by piece, refused before its first byte, cut where it breaks off."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from http_fakes import Client, Line, within

from aspen.errors import HttpError, StorageError
from aspen.http.backup import BackupRoutes
from aspen.http.connection import HttpLimits
from aspen.http.server import HttpServer

GET = b"GET /v1/cluster/backup HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Source:
    """A backup of the pieces it is given; an error among them is raised there."""

    def __init__(self) -> None:
        self.pieces: list[bytes | Exception] = [b"one", b"two"]
        self.closed = 0

    async def stream(self) -> AsyncGenerator[bytes, None]:
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed += 1


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def server(source: Source) -> AsyncIterator[HttpServer]:
    server = HttpServer(listen=("127.0.0.1", 0), limits=HttpLimits(heartbeat_ms=50))
    BackupRoutes(source.stream).add_routes(server.admin)
    await server.start()
    yield server
    await server.close()


async def test_all_pieces_come_and_the_connection_goes_on(server: HttpServer, source: Source) -> None:
    line = await Line.open(server.address)
    for _ in range(2):
        await line.send(GET)
        answer = await line.answer()
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/octet-stream"
        assert await line._chunks() == b"onetwo"
    await line.close()
    assert source.closed == 2


async def test_a_refusal_is_an_answer(server: HttpServer, source: Source) -> None:
    source.pieces = [HttpError(503, "overloaded", "a backup of this node is being made already")]
    client = Client(server.address)
    answer = await client.get("/v1/cluster/backup")
    assert (answer.status, answer.json["error"]) == (503, "overloaded")
    assert (await client.get("/v1/cluster/backup?x=1")).status == 400
    assert (await client.request("HEAD", "/v1/cluster/backup")).status == 200
    await client.close()


async def test_what_breaks_off_ends_without_the_last_chunk(server: HttpServer, source: Source) -> None:
    source.pieces = [b"one", StorageError("the store has been replaced")]
    line = await Line.open(server.address)
    await line.send(GET)
    assert (await line.answer()).status == 200
    rest = b""
    try:
        rest = await line.reader.read()
    except ConnectionError:
        pass
    assert b"0\r\n\r\n" not in rest
    await line.close()


async def test_a_client_that_goes_away_ends_the_source(server: HttpServer, source: Source) -> None:
    source.pieces = [b"x" * 65_536] * 10_000
    line = await Line.open(server.address)
    await line.send(GET)
    await line.answer()
    await line.close()
    await within(30, lambda: source.closed == 1)
