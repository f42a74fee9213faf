"""What workers pass on to the node process, and the replies that come back by their sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import dns.asyncquery
import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.dns.forward import Forwarded, ForwardedQueries, forward_pair, needs_node, needs_time, pass_on
from aspen.dns.lookup import DnsSettings
from aspen.dns.sockets import bind_udp
from aspen.dns.udp import InProcessUdp, UdpWorkers
from aspen.limits import DNS_FORWARDED

SECONDS = 30.0


class Node:
    """Answers what is passed on with REFUSED, and remembers who asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, Any]] = []

    async def answer(self, query: bytes, client: Any) -> bytes | None:
        self.seen.append((query, client))
        return query[:2] + bytes((query[2] | 0x80, 5)) + bytes(8)


def notify() -> dns.message.Message:
    query = dns.message.make_query("zone.example.", "SOA")
    query.set_opcode(dns.opcode.NOTIFY)
    return query


def update() -> dns.message.Message:
    message = dns.update.UpdateMessage("zone.example.")
    message.add("www", 300, "A", "192.0.2.1")
    return message


def signed() -> dns.message.Message:
    query = dns.message.make_query("zone.example.", "SOA")
    query.use_tsig({"key.example.": b"secret"})
    return query


def test_notify_update_signed_and_ixfr_are_for_the_node_process() -> None:
    for message in (notify(), update(), signed(), dns.message.make_query("zone.example.", "IXFR")):
        assert needs_node(message.to_wire())
    for rrtype in ("A", "TXT", "SOA", "ANY", "AXFR"):
        query = dns.message.make_query("zone.example.", rrtype, use_edns=True, want_dnssec=True)
        assert not needs_node(query.to_wire())


def test_an_ordinary_query_with_those_octets_in_it_gets_round_nothing() -> None:
    """Cookies and rate limits are the worker's: nobody passes them by by what stands in an option."""
    for mark in (b"\x00\xfa\x00\xff\x00\x00\x00\x00", b"\x00\xfb\x00\x01", b"\x00\xfc\x00\x01"):
        option = dns.edns.GenericOption(65_001, mark)
        query = dns.message.make_query("zone.example.", "A", use_edns=0, options=[option])
        assert mark in query.to_wire()
        assert not needs_node(query.to_wire())
        assert not needs_time(query.to_wire())


def test_a_tsig_record_that_is_out_of_place_is_for_who_says_formerr_rfc8945_5_1() -> None:
    wire = bytearray(signed().to_wire())
    wire[8:12] = b"\x00\x01\x00\x00"  # in the authority section
    assert needs_node(bytes(wire))


async def test_a_flood_leaves_the_event_loop_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.dns.forward.DNS_FORWARDED_PER_S", 0)
    node = Node()
    forwarded = ForwardedQueries((), node.answer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(DNS_FORWARDED + 7):
            forwarded.submit(udp, Forwarded(notify().to_wire(), ("127.0.0.1", 1), []))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert forwarded.dropped == 7
        await forwarded.close()


@given(st.binary(max_size=200))
def test_looking_at_garbage_never_fails(garbage: bytes) -> None:
    assert needs_node(garbage) in (True, False)


@pytest.fixture
async def in_process(replica: Any) -> AsyncIterator[tuple[Node, tuple[str, int]]]:
    node = Node()
    sockets = bind_udp("127.0.0.1", 0, 1)
    udp = InProcessUdp(sockets, replica.view(), node.answer)
    await udp.start()
    yield node, sockets[0].getsockname()
    await udp.close()


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::"])
async def workers(
    replica: Any, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Node, tuple[str, int]]]:
    node = Node()
    try:
        sockets = bind_udp(request.param, 0, 1)
    except OSError:
        pytest.skip("no IPv6 here")
    udp = UdpWorkers(replica.data_dir, sockets, DnsSettings(), replica.page_path, answer=node.answer)
    await udp.start()
    host = "127.0.0.2" if request.param != "127.0.0.1" else request.param
    yield node, (host, sockets[0].getsockname()[1])
    await udp.close()
    assert all(sock.fileno() < 0 for sock in sockets)


async def until_answered(address: tuple[str, int], query: dns.message.Message) -> dns.message.Message:
    """Ask until answered: a worker may be starting. dnspython checks whom the reply is from."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await dns.asyncquery.udp(query, address[0], timeout=0.3, port=address[1])
            except dns.exception.Timeout:
                continue
    raise AssertionError


async def test_a_worker_passes_on_and_the_client_hears_from_the_address_it_asked(
    workers: tuple[Node, tuple[str, int]], z32: str
) -> None:
    node, address = workers
    query = notify()
    reply = await until_answered(address, query)
    assert reply.rcode() == dns.rcode.REFUSED
    assert node.seen[0][0] == query.to_wire()
    assert node.seen[0][1][0].removeprefix("::ffff:").startswith("127.0.0.")
    plain = await until_answered(address, dns.message.make_query(f"_iroh.{z32}.aspen.local", "TXT"))
    assert plain.answer
    assert all(query == node.seen[0][0] for query, _ in node.seen), "ordinary queries stay with the worker"


async def test_in_process_passes_on_too(in_process: tuple[Node, tuple[str, int]]) -> None:
    node, address = in_process
    assert (await until_answered(address, update())).rcode() == dns.rcode.REFUSED
    assert len(node.seen) == 1


async def test_what_finds_the_queue_full_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.dns.forward.DNS_FORWARDED", 2)
    never = asyncio.Event()
    both = asyncio.Event()
    asked = 0

    async def answer(query: bytes, client: Any) -> bytes | None:
        nonlocal asked
        asked += 1
        if asked == 2:
            both.set()
        await never.wait()
        return None

    pair, worker = forward_pair()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    forwarded = ForwardedQueries([(pair, udp)], answer)
    forwarded.start()
    for _ in range(5):
        assert pass_on(worker, bytes(12), ("127.0.0.1", 1), [])
    async with asyncio.timeout(SECONDS):
        await both.wait()
    assert (asked, forwarded.dropped) == (2, 3)
    await forwarded.close()
    for sock in (pair, worker, udp):
        sock.close()


def test_a_worker_never_waits_for_the_node_process() -> None:
    pair, worker = forward_pair()
    with pair, worker:
        sent = 0
        while pass_on(worker, bytes(4_000), ("127.0.0.1", 1), []):
            sent += 1
            assert sent < 100_000
        assert sent > 10
