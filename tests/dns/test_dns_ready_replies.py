"""Ready replies and how they go out of date: by packet, by everything, by time."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import pytest

from aspen.dns.lookup import DnsSettings
from aspen.dns.reply_cache import ReplyCache
from aspen.dns.sockets import bind_udp
from aspen.dns.udp import UdpWorkers
from aspen.dns.udp_answers import Counter, UdpAnswers
from aspen.limits import DNS_CACHE_ENTRIES, DNS_CACHE_LIFE_MS, DNS_CHANGES, DNS_TICK_MS
from aspen.state.status_page import StatusPage
from aspen.z32 import encode_key

SECONDS = 30.0


# --- the ring of changes ---------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Iterator[StatusPage]:
    page = StatusPage.create(tmp_path / "page", workers=1)
    yield page
    page.close()


def key(number: int) -> bytes:
    return number.to_bytes(8, "big") + bytes(24)


def test_a_reader_hears_of_each_changed_packet_once(page: StatusPage) -> None:
    seen, marks = page.changes_since(0)
    assert (seen, marks) == (0, [])
    page.note_changes({key(1)})
    page.note_changes({key(2), key(3)})
    seen, marks = page.changes_since(seen)
    assert marks is not None
    assert sorted(marks) == [key(number)[:8] for number in (1, 2, 3)]
    assert page.changes_since(seen) == (seen, [])
    assert page.generation == 2


def test_whatever_is_no_packet_concerns_everything(page: StatusPage) -> None:
    page.note_changes({key(1)})
    page.note_changes(None)
    page.note_changes({key(2)})
    seen, marks = page.changes_since(0)
    assert marks is None
    assert page.changes_since(seen) == (seen, [])


@pytest.mark.parametrize(("changes", "told"), [(DNS_CHANGES // 2, True), (DNS_CHANGES // 2 + 1, False)])
def test_a_reader_that_slept_through_half_a_ring_forgets_everything(
    page: StatusPage, changes: int, told: bool
) -> None:
    for number in range(changes):
        page.note_changes({key(number + 1)})
    _, marks = page.changes_since(0)
    assert (marks is not None) is told


def test_one_commit_of_very_many_packets_concerns_everything(page: StatusPage) -> None:
    page.note_changes({key(number + 1) for number in range(DNS_CHANGES // 4 + 1)})
    assert page.changes_since(0)[1] is None


def test_the_ring_goes_round(page: StatusPage) -> None:
    rng, seen, number = random.Random(1), 0, 0
    while number < 3 * DNS_CHANGES:
        noted = {key(number + each + 1) for each in range(rng.randrange(1, DNS_CHANGES // 4))}
        number += len(noted)
        page.note_changes(noted)
        seen, marks = page.changes_since(seen)
        assert marks is not None
        assert set(marks) == {packet[:8] for packet in noted}


# --- the cache -------------------------------------------------------------------------------------


def test_a_packet_takes_its_own_replies_and_no_others() -> None:
    cache = ReplyCache()
    cache.keep(cache.plain, b"one", b"1", [key(1)])
    cache.keep(cache.plain, b"also one", b"2", [key(1)])
    cache.keep(cache.errors, b"one, missing", b"3", [key(1)])
    cache.keep(cache.plain, b"both", b"4", [key(1), key(2)])
    cache.keep(cache.plain, b"two", b"5", [key(2)])
    cache.keep(cache.plain, b"none", b"6", [])
    cache.forget([key(3)[:8]])
    assert len(cache) == 6
    cache.forget([key(1)[:8]])
    assert set(cache.plain) == {b"two", b"none"}
    assert not cache.errors
    cache.forget([key(2)[:8], key(2)[:8]])
    assert set(cache.plain) == {b"none"}


def test_the_cache_is_bounded() -> None:
    cache = ReplyCache()
    for number in range(DNS_CACHE_ENTRIES + 10):
        cache.keep((cache.plain, cache.errors)[number % 2], b"%d" % number, b"", [key(number)])
    assert len(cache) == 10
    cache.keep(cache.plain, b"long", bytes(10_000), [])
    assert b"long" not in cache.plain


def test_ready_replies_end_after_their_time(served: Any, z32: str) -> None:
    answers = UdpAnswers(served.view)
    query = dns.message.make_query(f"_iroh.{z32}.aspen.local", "TXT").to_wire()
    answers.reply_to(query, "192.0.2.1")
    for _ in range(DNS_CACHE_LIFE_MS // DNS_TICK_MS):
        assert len(answers.cache) == 1
        answers.tick(0)
    assert len(answers.cache) == 0


def test_misses_are_kept_where_that_pays(served: Any) -> None:
    """A flood of random names keeps one reply in eight, and gives up nobody's ready replies for it."""
    answers = UdpAnswers(served.view)

    def flood(count: int, tag: str) -> int:
        before = len(answers.cache)
        for number in range(count):
            answers.reply_to(dns.message.make_query(f"{tag}{number}.aspen.local", "A").to_wire(), "192.0.2.1")
        return len(answers.cache) - before

    assert flood(2_100, "a") == 2_100
    answers.tick(0)
    assert flood(800, "b") == 100
    answers.tick(0)  # a second later it has passed
    assert flood(10, "c") == 10


# --- a worker --------------------------------------------------------------------------------------


async def test_changes_lose_no_query_and_leave_other_replies(replica: Any, z32: str) -> None:
    """While packets change all the time, every query is answered, with what was true when it was asked or
    later; and names whose packets don't change stay ready."""
    sockets = bind_udp("127.0.0.1", 0, 1)
    udp = UdpWorkers(replica.data_dir, sockets, DnsSettings(), replica.page_path)
    address = sockets[0].getsockname()
    loop = asyncio.get_running_loop()
    changing = [random.Random(number).randbytes(32) for number in range(4)]
    written = dict.fromkeys(changing, 0)
    ending = threading.Event()

    def write() -> None:
        number = 0
        while not ending.wait(0.002):
            number += 1
            for packet in changing:
                replica.put(f'n 30 TXT "{number}"', packet, timestamp_us=number + 1)
                written[packet] = number

    writer = threading.Thread(target=write)
    await udp.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)

        async def ask(name: str) -> dns.message.Message:
            query = dns.message.make_query(name, "TXT")
            await loop.sock_sendto(client, query.to_wire(), address)
            reply = dns.message.from_wire(await asyncio.wait_for(loop.sock_recv(client, 2_000), SECONDS))
            assert query.is_response(reply)
            return reply

        try:
            await ask(f"_iroh.{z32}.aspen.local")
            writer.start()
            for number in range(400):
                packet = changing[number % len(changing)]
                before = written[packet]
                reply = await ask(f"n.{encode_key(packet)}.aspen.local")
                said = int(reply.answer[0][0].strings[0]) if reply.answer else 0
                assert said >= before
                assert (await ask(f"_iroh.{z32}.aspen.local")).answer
        finally:
            ending.set()
            if writer.ident is not None:
                writer.join()
            await udp.close()
    counters = replica.page.worker(0)
    assert counters.get(Counter.FORGOTTEN) > 20
    assert counters.get(Counter.FLUSHED) <= 2
    assert counters.get(Counter.HITS) > 300  # of 400 for the packet that stayed as it was
