"""10,000 random and mutated requests: never a 5xx, never a crash, nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import random
import re

from http_fakes import FakeCluster, Line, Serve, within
from test_relay import ALICE, MESSAGE, PACKET, PATH, signed

SEED = 20_261_121
BODIES = 6_000
REQUESTS = 4_000
LANES = 20

HOST = b"Host: localhost\r\n"
JSON = b'{"pairs": [{"key": "YQ==", "value": "YQ=="}]}'
CONDITIONS = (
    b'If-None-Match: "x", W/"y"\r\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT\r\nAccept: */*\r\n'
)
HEADS = [
    b"PUT %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b"
    % (PATH.encode(), HOST, len(PACKET.payload), PACKET.payload),
    b"GET %b HTTP/1.1\r\n%b%b\r\n" % (PATH.encode(), HOST, CONDITIONS),
    b"PUT /v1/kv/a%%2Fb HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" % HOST,
    b"GET /v1/kv?prefix=%%00&limit=10&consistency=stale HTTP/1.1\r\n%bConnection: close\r\n\r\n" % HOST,
    b"POST /v1/kv HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (HOST, len(JSON), JSON),
    b"OPTIONS /%b HTTP/1.1\r\n%bOrigin: null\r\n\r\n" % (ALICE.z32.encode(), HOST),
    b"GET /healthz HTTP/1.1\r\n%bExpect: 100-continue\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" % HOST,
    b"DELETE http://localhost/v1/kv/%ff HTTP/1.0\r\n\r\n",
]
STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few small accidents."""
    octets = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(octets) + 1)
        match rng.randrange(6):
            case 0 if position < len(octets):
                octets[position] = rng.randrange(256)
            case 1:
                octets[position:position] = rng.randbytes(rng.randint(1, 8))
            case 2:
                del octets[position : position + rng.randint(1, 20)]
            case 3:
                octets[position:position] = octets[: rng.randint(0, 60)]
            case 4:
                octets[position:position] = rng.choice((b"\r\n", b"\0", b"\r\n\r\n", b": ", b"%", b"\xff"))
            case _:
                del octets[position:]
    return bytes(octets)


def bodies(rng: random.Random) -> list[bytes]:
    """Payloads: mutated, random, and well signed over mutated messages."""
    made = []
    for number in range(BODIES):
        match number % 3:
            case 0:
                made.append(mutated(rng, PACKET.payload))
            case 1:
                made.append(rng.randbytes(rng.randint(0, 1_200)))
            case _:
                made.append(signed(mutated(rng, MESSAGE)[:1_000], PACKET.timestamp_us - rng.randint(0, 9)))
    return made


async def test_bodies(serve: Serve, cluster: FakeCluster) -> None:
    rng = random.Random(SEED)
    server = await serve()
    work = iter(bodies(rng))
    statuses: dict[int, int] = {}

    async def lane() -> None:
        line = await Line.open(server.address)
        for body in work:
            await line.send(
                b"PUT %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
                % (PATH.encode(), len(body), body)
            )
            answer = await line.answer()
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            if answer.status != 204:
                assert answer.error[0] in (400, 409, 413)
            if answer.headers.get("connection") == "close":
                await line.close()
                line = await Line.open(server.address)
        await line.close()

    await asyncio.gather(*(lane() for _ in range(LANES)))
    assert sum(statuses.values()) == BODIES
    assert set(statuses) <= {204, 400, 409, 413}
    await within(30, lambda: server.connections == 0)


async def test_whole_requests(serve: Serve) -> None:
    rng = random.Random(SEED + 1)
    server = await serve()
    work = iter(
        [
            mutated(rng, rng.choice(HEADS)) if rng.random() < 0.9 else rng.randbytes(rng.randint(1, 300))
            for _ in range(REQUESTS)
        ]
    )
    statuses: dict[int, int] = {}

    async def lane() -> None:
        for data in work:
            line = await Line.open(server.address)
            await line.send(data)
            line.writer.write_eof()
            answers = await line.reader.read()
            await line.close()
            for status in STATUS_LINE.findall(answers):
                statuses[int(status)] = statuses.get(int(status), 0) + 1
                assert int(status) < 500, (data, answers)

    await asyncio.gather(*(lane() for _ in range(LANES)))
    await within(30, lambda: server.connections == 0)
    assert {200, 204, 400, 404} <= set(statuses)
    gc.collect()
    assert len(asyncio.all_tasks()) < 10
