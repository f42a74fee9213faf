"""Seeded garbage: random bytes, and things that were valid until something happened to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import dns.message
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

Maker = Callable[[random.Random], bytes]


def mutate(rng: random.Random, valid: bytes) -> bytes:
    """One to four small accidents."""
    data = bytearray(valid)
    for _ in range(rng.randint(1, 4)):
        where = rng.randrange(len(data) or 1)
        match rng.randrange(6):
            case 0 if data:
                data[where] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[where] = rng.choice((0x00, 0x3F, 0x40, 0xC0, 0xFF, rng.randrange(256)))
            case 2:
                del data[where:]
            case 3:
                data[where:where] = rng.randbytes(rng.randint(1, 16))
            case 4:
                del data[where : where + rng.randint(1, 8)]
            case _:
                data += data[where : where + 64]
    return bytes(data[:4_000])


def dns_queries(names: Sequence[str]) -> list[bytes]:
    """Valid queries to start from, with and without EDNS."""
    wires = []
    for name in names:
        for rtype in ("TXT", "A", "SOA", "ANY", "HTTPS"):
            for edns in (-1, 0):
                wires.append(dns.message.make_query(name, rtype, use_edns=edns).to_wire())
    return wires


def quic_datagrams(alpn: str = "aspen-raft/1") -> list[bytes]:
    """The first flight of a real QUIC client."""
    connection = QuicConnection(configuration=QuicConfiguration(is_client=True, alpn_protocols=[alpn]))
    connection.connect(("127.0.0.1", 1), now=0.0)
    datagrams = [data for data, _address in connection.datagrams_to_send(now=0.0)]
    assert datagrams
    return datagrams


def datagrams(seed: int, count: int, valid: Sequence[bytes], random_share: float = 0.4) -> Iterator[bytes]:
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < random_share:
            yield rng.randbytes(rng.choice((0, 1, 11, 12, 13, 28, 60, 512, 1_200, 1_452, 3_000)))
        else:
            yield mutate(rng, rng.choice(valid))


HTTP_REQUESTS = (
    b"PUT /pkarr/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n01234567890123456789",
    b"GET /pkarr/%s HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/kv?prefix=a&limit=5 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"PUT /v1/kv/a%%00b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\nx",
    b"POST /v1/kv HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}",
    b"PUT /pkarr/%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
)


def http_requests(seed: int, count: int, z32: str) -> Iterator[bytes]:
    rng = random.Random(seed)
    valid = [text % z32.encode() if b"%s" in text else text.replace(b"%%", b"%") for text in HTTP_REQUESTS]
    for _ in range(count):
        yield rng.randbytes(rng.randint(1, 400)) if rng.random() < 0.3 else mutate(rng, rng.choice(valid))


def bodies(seed: int, count: int, valid: bytes) -> Iterator[bytes]:
    """Bodies for a PUT: noise, or a packet to which something happened."""
    rng = random.Random(seed)
    for _ in range(count):
        noise = rng.randbytes(rng.choice((0, 1, 71, 72, 73, 104, 500, 1_072, 1_073, 3_000)))
        body = noise if rng.random() < 0.4 else mutate(rng, valid)
        yield body if body != valid else b""
