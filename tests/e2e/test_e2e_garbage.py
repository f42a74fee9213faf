"""Ten thousand pieces of garbage at each door: nothing crashes, nothing leaks, and the node still serves."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator

import aiohttp
import pytest
from clients import HOST, Published, dns_query, sign, texts, udp_socket
from cluster import Cluster, NodeProcess
from garbage import bodies, datagrams, dns_queries, http_requests, quic_datagrams
from processes import open_files, wait_until

COUNT = 10_000
GROWTH_KIB = 16 * 1_024
BURST = 50
# What must not stand in a log: garbage from outside is no reason for a stack trace.
ALARMS = ("Traceback", "InvariantViolation", "Segmentation")


@pytest.fixture
def node(single: Cluster) -> Iterator[NodeProcess]:
    """The single node; afterwards the same processes must be there, and have complained of nothing."""
    (node,) = single
    pid, workers = node.pid, node.workers_alive()
    files = open_files(pid)
    log_before = len(node.log())
    yield node
    assert node.alive
    assert node.pid == pid
    assert node.workers_alive() == workers
    wait_until(lambda: open_files(pid) <= files + 2, "no connection was left open", timeout_s=30)
    said = node.log()[log_before:]
    assert not [alarm for alarm in ALARMS if alarm in said], said[-4_000:]


def published(node: NodeProcess) -> Published:
    packet = sign("garbage=survived")
    assert node.put(packet).status == 204
    return packet


def still_serves(node: NodeProcess, packet: Published) -> None:
    assert node.resolves(packet)
    assert texts(dns_query(node.dns_port, packet.name(), "TXT", tcp=True)) == list(packet.texts)
    assert node.stored(packet)
    assert node.put(sign("after=garbage")).status == 204


def send(port: int, payloads: Iterable[bytes], pace: socket.socket | None = None, probe: bytes = b"") -> None:
    """Send datagrams; every few, wait for an answer to `probe`, so that no queue overflows."""
    with udp_socket() as sender:
        sender.setblocking(False)
        for i, payload in enumerate(payloads):
            try:
                sender.sendto(payload, (HOST, port))
            except OSError:
                pass  # larger than a datagram, or the answer to an earlier one was refused
            if pace is not None and i % BURST == BURST - 1:
                pace.send(probe)
                pace.recv(4_096)


def memory_grows_by(node: NodeProcess, before_kib: int) -> int:
    grown = node.memory_kib() - before_kib
    print(f"memory {before_kib} KiB, grown by {grown} KiB")
    return grown


def test_dns_garbage_over_udp(node: NodeProcess) -> None:
    packet = published(node)
    valid = dns_queries([packet.name(), f"{packet.z32}.aspen.local.", "aspen.local.", "other.example."])
    with udp_socket() as pace:
        pace.connect((HOST, node.dns_port))
        pace.settimeout(5)
        send(node.dns_port, datagrams(1, COUNT // 2, valid), pace, valid[0])
        before = node.memory_kib()
        send(node.dns_port, datagrams(2, COUNT, valid), pace, valid[0])
    assert memory_grows_by(node, before) <= GROWTH_KIB
    still_serves(node, packet)


def test_dns_garbage_over_tcp(node: NodeProcess) -> None:
    packet = published(node)
    valid = dns_queries([packet.name(), "aspen.local."])
    before = node.memory_kib()
    for i, garbage in enumerate(datagrams(3, 1_000, valid)):
        with socket.create_connection((HOST, node.dns_port), timeout=5) as connection:
            # Half of them framed rightly, half not.
            connection.sendall((struct.pack("!H", len(garbage)) if i % 2 else b"") + garbage)
    assert memory_grows_by(node, before) <= GROWTH_KIB
    still_serves(node, packet)


def test_quic_garbage(node: NodeProcess) -> None:
    packet = published(node)
    valid = [data for _ in range(20) for data in quic_datagrams()]
    probe = dns_queries([packet.name()])[0]

    def throw(seed: int, count: int) -> None:
        # The node process reads its datagrams in turn with everything else: a status answer paces us.
        stream = datagrams(seed, count, valid)
        for _ in range(count // BURST):
            send(node.quic_port, [next(stream) for _ in range(BURST)])
            assert node.status() is not None

    throw(4, COUNT // 5)
    wait_until(node.ready, "ready amid garbage")
    before = node.memory_kib()
    throw(5, COUNT)
    assert memory_grows_by(node, before) <= GROWTH_KIB
    assert probe
    still_serves(node, packet)


async def test_garbage_bodies(node: NodeProcess) -> None:
    packet = published(node)
    url = f"http://{HOST}:{node.http_port}{packet.path}"
    statuses: Counter[int] = Counter()

    async def throw(seed: int, count: int) -> None:
        queue = bodies(seed, count, packet.payload)

        async def worker(session: aiohttp.ClientSession) -> None:
            for body in queue:
                async with session.put(url, data=body) as response:
                    assert response.content_type == "application/json"
                    assert set(await response.json()) >= {"error", "reason"}
                    statuses[response.status] += 1

        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(worker(session) for _ in range(16)))

    await throw(6, COUNT // 5)
    before = node.memory_kib()
    await throw(7, COUNT)
    print(dict(statuses))
    assert set(statuses) <= {400, 413}
    assert memory_grows_by(node, before) <= GROWTH_KIB
    still_serves(node, packet)


def test_garbage_requests(node: NodeProcess) -> None:
    packet = published(node)

    def throw(seed: int, count: int) -> None:
        for request in http_requests(seed, count, packet.z32):
            with socket.create_connection((HOST, node.http_port), timeout=5) as connection:
                try:
                    connection.sendall(request)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(4_096)
                except TimeoutError:
                    pytest.fail(f"neither answered nor hung up: {request!r}")
                except OSError:
                    pass  # it hung up: its right

    throw(8, 500)
    before = node.memory_kib()
    throw(9, 2_000)
    assert memory_grows_by(node, before) <= GROWTH_KIB
    still_serves(node, packet)


def test_a_huge_body_is_refused_before_it_is_sent(node: NodeProcess) -> None:
    """413 from the announced length alone: the body is never read whole."""
    packet = published(node)
    with socket.create_connection((HOST, node.http_port), timeout=10) as connection:
        head = f"PUT {packet.path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1073741824\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413"), answer[:200]
    still_serves(node, packet)
