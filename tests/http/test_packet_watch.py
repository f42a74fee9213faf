"""Watching packets: every change, none twice, none lost, at whichever member one goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from http_fakes import EventLine, Line, Told, within

from aspen.http.connection import HttpLimits
from aspen.http.forwarded import parse_networks
from aspen.http.server import HttpServer
from aspen.identity import Identity
from aspen.limits import PKARR_WATCHES_PER_CLIENT
from aspen.pkarr import watch as watch_module
from aspen.pkarr.gate import Gate, GateRules
from aspen.pkarr.records import build_message
from aspen.pkarr.watch import PacketWatch
from aspen.state import packet_events
from aspen.state.commands import Command, encode_command
from aspen.state.kv_commands import KvSet
from aspen.state.machine import Machine
from aspen.state.memory_store import MemoryStore
from aspen.state.packet_commands import PacketDelete, PacketPut, PacketsExpire
from aspen.state.packet_events import LmdbPacketEvents

ALICE, BOB = (Identity.from_seed(bytes([n]) * 32) for n in range(2))
KEY = f"/v1/packets/watch?key={ALICE.z32}"
ALL = "/v1/packets/watch/all"


def put(timestamp_us: int, identity: Identity = ALICE, *, empty: bool = False) -> PacketPut:
    message = build_message(identity.endpoint_id, [] if empty else ["@ A 192.0.2.1"])
    return PacketPut(identity.endpoint_id, bytes(64) + timestamp_us.to_bytes(8, "big") + message)


NOTHING = KvSet(((b"key", b"value"),))


class Member:
    """A member's replica and its watch; `log` is the same for all, each applies as much as it is told."""

    def __init__(self, log: list[Command]) -> None:
        self.log = log
        self.applied = 0
        self.store = MemoryStore()
        self.machine = Machine(self.store)
        gate = Gate(GateRules(limit_loopback=True, trusted_proxies=parse_networks(["127.0.0.0/8"], "")))
        self.watch = PacketWatch(LmdbPacketEvents(self.store), lambda: self.applied, gate)
        self.server: HttpServer

    def apply(self, up_to: int | None = None) -> None:
        """Apply the log, in one go, and tell the watch."""
        up_to = len(self.log) if up_to is None else up_to
        with self.store.write() as txn:
            self.machine.begin(txn)
            for index in range(self.applied + 1, up_to + 1):
                self.machine.apply(txn, index, index * 1_000, encode_command(self.log[index - 1]))
            self.machine.end(txn)
        self.applied = up_to
        self.watch.progressed()

    async def open(self, target: str, **headers: str) -> EventLine:
        return await EventLine.open(self.server.address, target, **headers)


@pytest.fixture
def log() -> list[Command]:
    return []


@pytest.fixture
async def start(log: list[Command]) -> AsyncIterator[Callable[..., Awaitable[Member]]]:
    async with AsyncExitStack() as stack:

        async def begin(**limits: int) -> Member:
            member = Member(log)
            member.server = HttpServer(listen=("127.0.0.1", 0), limits=HttpLimits(**limits))
            member.watch.add_routes(member.server.public, member.server.admin)
            await member.server.start()
            stack.push_async_callback(member.server.close)
            return member

        yield begin
        for line in Line.opened:
            await line.close()
        Line.opened.clear()


Start = Callable[..., Awaitable[Member]]


async def next_told(line: EventLine) -> Told:
    """The next event that isn't mere progress."""
    while (event := await line.event()) is not None and event.name == "progress":
        pass
    assert event is not None
    return event


async def indexes(line: EventLine, count: int) -> list[int]:
    return [(await next_told(line)).data["index"] for _ in range(count)]


async def test_each_kind_of_change_is_told(start: Start, log: list[Command]) -> None:
    member = await start()
    line, every = await member.open(KEY), await member.open(ALL)
    assert await line.event() == Told("progress", {"index": 0}, 0)
    log += [put(5), put(5), put(6, empty=True), put(7), PacketDelete(ALICE.endpoint_id), put(1, BOB), put(9)]
    log += [PacketsExpire(2**60, 0)]
    told: list[tuple[str, dict[str, Any]]] = []
    for index in range(1, len(log) + 1):
        member.apply(index)
        await asyncio.sleep(0)
    for _ in range(6):
        event = await next_told(line)
        assert event.id == event.data["index"]
        told.append((event.name, event.data))
    alice = [ALICE.z32]
    assert told == [
        ("stored", {"index": 1, "keys": alice, "timestamp_us": 5}),
        ("unpublished", {"index": 3, "keys": alice, "timestamp_us": 6}),
        ("stored", {"index": 4, "keys": alice, "timestamp_us": 7}),
        ("deleted", {"index": 5, "keys": alice, "timestamp_us": 7}),
        ("stored", {"index": 7, "keys": alice, "timestamp_us": 9}),
        ("expired", {"index": 8, "keys": alice}),
    ]
    assert await indexes(every, 7) == [1, 3, 4, 5, 6, 7, 8]


async def test_a_watcher_goes_on_at_another_member_even_one_that_lags(
    start: Start, log: list[Command]
) -> None:
    one, other = await start(), await start()
    log += [put(n) for n in range(1, 9)]
    one.apply(5)
    other.apply(2)
    line = await one.open(KEY + "&from=1")
    assert await indexes(line, 5) == [1, 2, 3, 4, 5]
    await line.close()
    line = await other.open(KEY + "&from=1", Last_Event_ID="5")  # as a browser reconnects
    assert await line.event() == Told("progress", {"index": 5}, 5)
    other.apply(5)  # all of that is known already
    other.apply(7)
    assert await indexes(line, 2) == [6, 7]
    other.apply()
    assert await indexes(line, 1) == [8]


async def test_a_client_that_has_looked_goes_on_from_there(start: Start, log: list[Command]) -> None:
    member = await start()
    log += [put(1), put(2), put(3)]
    member.apply(2)
    line = await member.open(KEY)  # from now on
    assert await line.event() == Told("progress", {"index": 2}, 2)
    member.apply()
    assert await indexes(line, 1) == [3]


async def test_other_keys_and_other_commands_are_passed_over_and_progress_tells(
    start: Start, log: list[Command]
) -> None:
    member = await start(heartbeat_ms=20)
    line, every = await member.open(KEY), await member.open(ALL)
    assert [(await one.event()) for one in (line, every)] == [Told("progress", {"index": 0}, 0)] * 2
    log += [put(1, BOB), NOTHING, NOTHING]
    member.apply()
    for one, seen in ((line, 3), (every, 3)):
        while (event := await one.event()) != Told("progress", {"index": seen}, seen):
            assert event is not None
            assert event.name == "progress" or one is every
    log += [put(1)]
    member.apply()
    assert await indexes(line, 1) == [4]


async def test_many_changes_come_in_order_past_the_size_of_a_batch(
    start: Start, log: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "PKARR_WATCH_BATCH", 10)
    member = await start()
    log += [put(n // 3 + 1, (ALICE, BOB, BOB)[n % 3]) for n in range(300)]
    stored = [n + 1 for n in range(300) if n % 3 != 2]  # Bob's second is the very packet stored
    member.apply(150)
    line, alice = await member.open(ALL + "?from=0"), await member.open(KEY + "&from=0")
    waiting = await member.open(KEY + "&from=140")
    member.apply()
    assert await indexes(line, 200) == stored
    assert await indexes(alice, 100) == list(range(1, 300, 3))
    assert await indexes(waiting, 53) == list(range(142, 300, 3))


async def test_what_may_be_forgotten_is_refused_or_ends_the_stream(
    start: Start, log: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packet_events, "PKARR_EVENTS", 5)
    member = await start()
    log += [put(n) for n in range(1, 31)]
    member.apply(10)
    assert (await member.open(KEY + "&from=5")).head.error == (410, "compacted")
    assert (await member.open(ALL + "?from=5")).head.error == (410, "compacted")
    line = await member.open(KEY + "&from=6")
    assert await indexes(line, 5) == [6, 7, 8, 9, 10]
    member.apply()  # all at once, as after a snapshot: 11 to 25 are gone
    event = await next_told(line)
    assert (event.name, event.data["error"]) == ("end", "compacted")
    assert await line.event() is None


async def test_bad_requests_are_refused(start: Start) -> None:
    member = await start()
    for target, code in (
        ("/v1/packets/watch", "bad_query"),
        ("/v1/packets/watch?key=x", "key"),
        (KEY + "&from=x", "bad_query"),
        (KEY + "&since=1", "bad_query"),
        (ALL + f"?key={ALICE.z32}", "bad_query"),
    ):
        assert (await member.open(target)).head.error == (400, code)


async def test_an_address_has_so_many_streams(start: Start) -> None:
    member = await start()
    for _ in range(PKARR_WATCHES_PER_CLIENT):
        assert (await member.open(KEY, X_Forwarded_For="192.0.2.1")).head.status == 200
    assert (await member.open(KEY, X_Forwarded_For="192.0.2.1")).head.error == (429, "rate_limited")
    other = await member.open(KEY, X_Forwarded_For="192.0.2.2")
    assert other.head.status == 200
    await Line.opened[0].close()
    await within(30, lambda: member.server.connections == PKARR_WATCHES_PER_CLIENT + 1)
    assert (await member.open(KEY, X_Forwarded_For="192.0.2.1")).head.status == 200


async def test_who_leaves_leaves_nothing_behind(start: Start) -> None:
    member = await start()
    lines = [await member.open(KEY) for _ in range(3)]
    for line in lines:
        assert await line.event() is not None
    await within(30, lambda: sum(map(len, member.watch._waiting.values())) == 3)
    for line in lines:
        await line.close()
    await within(30, lambda: not member.watch._waiting)
