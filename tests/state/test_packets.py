"""Packets in the state: unpublishing, deleting, expiring, how long they are served, and what is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from dns_answers import answer_of

from aspen.errors import CommandError
from aspen.identity import Identity
from aspen.limits import PKARR_EXPIRE_BATCH
from aspen.pkarr.expiry import Lifetimes, PacketExpiry
from aspen.pkarr.records import build_message
from aspen.state import packet_events
from aspen.state.commands import Command, Result, encode_command, validate_command
from aspen.state.machine import Machine
from aspen.state.memory_store import MemoryStore
from aspen.state.packet_commands import (
    ExpireResult,
    PacketDelete,
    PacketOutcome,
    PacketPut,
    PacketResult,
    PacketsExpire,
)
from aspen.state.packet_events import EventPage, LmdbPacketEvents, PacketEvent, PacketEventKind
from aspen.state.packets import LmdbPackets, LmdbRecords, MomentRecords, PacketLife
from aspen.state.ports import Consistency, Freshness
from aspen.state.store import Store, TableStore

ALICE, BOB, CAROL = (Identity.from_seed(bytes([n]) * 32) for n in range(3))
ALL = 2**62


def put(timestamp_us: int, *records: str, identity: Identity = ALICE) -> PacketPut:
    """As the relay proposes it; the machine trusts its signature was verified."""
    message = build_message(identity.endpoint_id, list(records))
    return PacketPut(identity.endpoint_id, bytes(64) + timestamp_us.to_bytes(8, "big") + message)


A = "@ A 192.0.2.1"


class State:
    """A store, and a machine that applies one command at a time."""

    def __init__(self, store: TableStore) -> None:
        self.store = store
        self.machine = Machine(store)
        self.index = 0
        self.now_ms = 0
        self.dns_changed: object = False
        self.packets = LmdbPackets(store)
        self.records = LmdbRecords(store, wall_ms=lambda: self.now_ms)
        self.events = LmdbPacketEvents(store)

    def apply(self, command: Command, time_ms: int = 0) -> Result:
        self.index += 1
        with self.store.write() as txn:  # type: ignore[attr-defined]  # both stores have it
            self.machine.begin(txn)
            result = self.machine.apply(txn, self.index, time_ms, encode_command(command))
            self.dns_changed = self.machine.end(txn)
        return result

    def outcome(self, command: Command, time_ms: int = 0) -> PacketOutcome:
        result = self.apply(command, time_ms)
        assert isinstance(result, PacketResult)
        return result.outcome

    def told(self, from_index: int = 0) -> list[tuple[int, PacketEventKind, tuple[bytes, ...]]]:
        page = self.events.page(from_index, 1_000)
        assert page is not None
        return [(event.log_index, event.kind, event.keys) for event in page.events]

    @property
    def ages(self) -> int:
        with self.store.read() as txn:
            return int(txn.stat(self.store.tables["packets_by_age"])["entries"])


@pytest.fixture(params=["lmdb", "memory"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    if request.param == "memory":
        yield State(MemoryStore())
        return
    store = Store.open(tmp_path, map_bytes=64 * 1024**2)
    yield State(store)
    store.close()


# --- unpublishing and deleting ----------------------------------------------------------------


def test_a_packet_without_answers_is_a_tombstone_that_keeps_older_ones_off(state: State) -> None:
    assert state.outcome(put(5, A)) is PacketOutcome.STORED
    assert state.records.packet_answers(ALICE.endpoint_id)
    assert state.outcome(put(6)) is PacketOutcome.STORED
    assert state.dns_changed
    stored = state.packets.get(ALICE.endpoint_id)
    assert stored is not None
    assert (stored.tombstone, stored.timestamp_us) == (True, 6)
    assert state.records.packet_answers(ALICE.endpoint_id) is None
    assert state.outcome(put(5, A)) is PacketOutcome.OLDER
    assert state.outcome(put(6)) is PacketOutcome.IDENTICAL
    assert not state.dns_changed
    assert state.outcome(put(7, A)) is PacketOutcome.STORED
    assert state.records.packet_answers(ALICE.endpoint_id)
    assert state.ages == 1


def test_a_deleted_packet_is_gone_and_neither_it_nor_an_older_one_returns(state: State) -> None:
    assert state.outcome(put(5, A)) is PacketOutcome.STORED
    assert state.apply(PacketDelete(ALICE.endpoint_id)) == PacketResult(PacketOutcome.DELETED, 5)
    assert state.dns_changed
    stored = state.packets.get(ALICE.endpoint_id)
    assert stored is not None
    assert (stored.tombstone, stored.timestamp_us, stored.payload, stored.answers) == (True, 5, b"", b"")
    assert state.records.packet_answers(ALICE.endpoint_id) is None
    for again in (put(4, A), put(5, A), put(5, "@ A 255.255.255.255", "zz A 192.0.2.1"), put(5)):
        assert state.outcome(again) is PacketOutcome.OLDER
    assert state.apply(PacketDelete(ALICE.endpoint_id)) == PacketResult(PacketOutcome.ABSENT, 5)
    assert state.outcome(put(6, A)) is PacketOutcome.STORED
    assert state.ages == 1


def test_there_is_nothing_to_delete(state: State) -> None:
    assert state.apply(PacketDelete(ALICE.endpoint_id)) == PacketResult(PacketOutcome.ABSENT, 0)
    assert state.packets.count() == state.ages == 0
    assert state.told() == []


def test_deleting_takes_away_what_was_unpublished_too(state: State) -> None:
    state.apply(put(5))
    assert state.outcome(PacketDelete(ALICE.endpoint_id)) is PacketOutcome.DELETED
    assert not state.dns_changed  # there was nothing to see already


def test_compare_and_swap_is_decided_in_log_order(state: State) -> None:
    base, mine, yours = put(5, A), put(7, A), put(8, A)
    assert state.outcome(msgspec.structs.replace(base, unless_after_us=0)) is PacketOutcome.STORED
    assert state.outcome(msgspec.structs.replace(mine, unless_after_us=5)) is PacketOutcome.STORED
    lost = msgspec.structs.replace(yours, unless_after_us=5)
    assert state.apply(lost) == PacketResult(PacketOutcome.MODIFIED, 7)
    assert state.outcome(msgspec.structs.replace(mine, unless_after_us=5)) is PacketOutcome.IDENTICAL
    assert state.outcome(msgspec.structs.replace(yours, unless_after_us=7)) is PacketOutcome.STORED


# --- expiring ---------------------------------------------------------------------------------


def test_what_was_not_seen_for_long_expires_the_oldest_first(state: State) -> None:
    state.apply(put(1, A), 100)
    state.apply(put(1, A, identity=BOB), 200)
    state.apply(put(1, A, identity=CAROL), 300)
    assert state.apply(PacketsExpire(300, 0, limit=1), 400) == ExpireResult(1, True)
    assert state.packets.get(ALICE.endpoint_id) is None
    assert state.dns_changed
    assert state.apply(PacketsExpire(300, 0, limit=9), 400) == ExpireResult(1, False)
    assert state.apply(PacketsExpire(300, 0, limit=9), 400) == ExpireResult(0, False)
    assert not state.dns_changed
    assert state.packets.get(CAROL.endpoint_id) is not None  # seen at the very moment: it stays
    assert state.packets.count() == state.ages == 1


def test_a_packet_seen_again_meanwhile_does_not_expire(state: State) -> None:
    state.apply(put(1, A), 100)
    state.apply(put(1, A), 200)  # the leader looked before this was applied
    assert state.apply(PacketsExpire(150, 0), 300) == ExpireResult(0, False)


def test_a_tombstone_has_an_age_of_its_own_and_outlives_its_timestamp(state: State) -> None:
    state.apply(put(900_000, A), 100)  # signed at 900 ms, by a clock that is ahead
    state.apply(PacketDelete(ALICE.endpoint_id), 200)
    state.apply(put(1_000, identity=BOB), 200)
    assert state.apply(PacketsExpire(ALL, 200), 300) == ExpireResult(0, False)
    assert state.apply(PacketsExpire(0, 900), 300) == ExpireResult(
        1, False
    )  # Bob's: signed before it was seen
    assert state.outcome(put(800_000, A), 300) is PacketOutcome.OLDER
    assert state.apply(PacketsExpire(0, 901), 300) == ExpireResult(1, False)
    assert not state.dns_changed
    assert state.packets.count() == state.ages == 0
    assert [kind for _, kind, _ in state.told()][-1] is not PacketEventKind.EXPIRED  # nobody saw it go


def test_expiring_is_bounded(state: State) -> None:
    for limit in (0, PKARR_EXPIRE_BATCH + 1):
        with pytest.raises(CommandError):
            validate_command(PacketsExpire(1, 1, limit))
    with pytest.raises(CommandError):
        validate_command(PacketDelete(b"short"))
    assert state.packets.due(ALL, ALL) is False
    state.apply(put(1, A), 100)
    assert (state.packets.due(100, ALL), state.packets.due(101, 0)) == (False, True)
    state.apply(put(2), 100)
    assert (state.packets.due(ALL, 100), state.packets.due(0, 101)) == (False, True)


# --- how long a packet is served --------------------------------------------------------------


def test_dns_hides_what_is_over_by_its_own_clock(state: State) -> None:
    records = LmdbRecords(state.store, PacketLife(retention_ms=1_000), lambda: state.now_ms)
    state.apply(put(1, A), 5_000)
    for state.now_ms, there in ((4_000, True), (6_000, True), (6_001, False)):
        assert (records.packet_answers(ALICE.endpoint_id) is not None) is there


def test_a_moment_is_read_until_it_is_released(tmp_path: Path) -> None:
    state = State(Store.open(tmp_path, map_bytes=64 * 1024**2))
    records = MomentRecords(state.store, PacketLife(retention_ms=1_000), lambda: state.now_ms)
    once = LmdbRecords(state.store, PacketLife(retention_ms=1_000), lambda: state.now_ms)
    key = ALICE.endpoint_id

    def see() -> bytes | None:
        records.release()
        assert records.packet_answers(key) == once.packet_answers(key)
        return records.packet_answers(key)

    assert see() is None
    state.apply(put(1, A), 5_000)
    assert records.packet_answers(key) is None  # as of the moment
    first = see()
    assert first
    state.apply(put(2, A, "more A 192.0.2.9"), 5_500)
    assert records.packet_answers(key) == first
    assert see() != first
    for state.now_ms, there in ((6_500, True), (6_501, False), (0, True)):
        assert (see() is not None) is there
    state.now_ms = 5_500
    state.apply(PacketDelete(key))
    assert see() is None
    state.store.close()


def test_strict_each_record_is_served_for_its_own_ttl(state: State) -> None:
    life = PacketLife(retention_ms=1_000_000, strict_ttl=True)
    records = LmdbRecords(state.store, life, lambda: state.now_ms)
    state.apply(put(1, "@ 10 A 192.0.2.1", "long 20 A 192.0.2.2", "never 0 A 192.0.2.3"), 0)
    record = state.packets.get(ALICE.endpoint_id)
    assert record is not None
    seen = []
    for state.now_ms in (0, 1, 10_000, 10_001, 20_000, 20_001):
        answers = records.packet_answers(ALICE.endpoint_id)
        seen.append(
            None if answers is None else [bool(answer_of(answers, name)) for name in ("", "long", "never")]
        )
        assert life.is_over(record, state.now_ms) is (answers is None)
    assert seen == [
        [True, True, True],
        [True, True, False],
        [True, True, False],
        [False, True, False],
        [False, True, False],
        None,
    ]
    assert life.renew_ms(record) == 0
    assert PacketLife(retention_ms=1_000).renew_ms(record) == 100


# --- what is told -----------------------------------------------------------------------------


def test_every_change_is_told_once_and_what_is_no_change_is_not(state: State) -> None:
    state.apply(put(5, A))
    state.apply(put(5, A))  # seen again
    state.apply(put(4, A))  # refused
    state.apply(put(6, A))
    state.apply(put(7))
    state.apply(put(8, A))
    state.apply(PacketDelete(ALICE.endpoint_id))
    state.apply(put(1, A, identity=BOB), 10)
    state.apply(put(1, A, identity=CAROL), 10)
    state.apply(PacketsExpire(ALL, 0), 20)
    alice, bob, carol = (each.endpoint_id for each in (ALICE, BOB, CAROL))
    kinds = PacketEventKind
    assert state.told() == [
        (1, kinds.STORED, (alice,)),
        (4, kinds.STORED, (alice,)),
        (5, kinds.UNPUBLISHED, (alice,)),
        (6, kinds.STORED, (alice,)),
        (7, kinds.DELETED, (alice,)),
        (8, kinds.STORED, (bob,)),
        (9, kinds.STORED, (carol,)),
        (10, kinds.EXPIRED, tuple(sorted((bob, carol)))),
    ]
    assert state.told(8) == state.told()[5:]
    assert state.events.page(4, 2) == EventPage(
        (PacketEvent(4, kinds.STORED, 6, (alice,)), PacketEvent(5, kinds.UNPUBLISHED, 7, (alice,))), True
    )
    assert state.events.page(99, 2) == EventPage((), False)


def test_what_is_forgotten_is_not_passed_over_in_silence(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packet_events, "PKARR_EVENTS", 3)
    for timestamp_us in range(1, 4):
        state.apply(put(timestamp_us, A))
    assert len(state.told(1)) == 3
    state.apply(put(4, A))
    assert state.events.page(1, 10) is None
    assert [index for index, _, _ in state.told(2)] == [2, 3, 4]


# --- what republishing and expiring cost ------------------------------------------------------


def test_thirty_thousand_clients_that_republish_cost_half_a_log_entry_a_second() -> None:
    """Simulated: a part of them, for a week, each the same packet every five minutes."""
    clients, scale, every_ms, days_ms = 100, 300, 300_000, 7 * 86_400_000
    state, life = State(MemoryStore()), PacketLife()
    packets = [
        put(1, A, identity=Identity.from_seed(number.to_bytes(32, "big"))) for number in range(clients)
    ]
    entries = 0
    for beat_ms in range(0, days_ms, every_ms):
        for number, packet in enumerate(packets):
            now_ms = beat_ms + number * every_ms // clients  # as they happen to have started
            stored = state.packets.get(packet.public_key)
            if stored is None or now_ms - stored.received_at_ms >= life.renew_ms(stored):
                entries += beat_ms > 0  # the first of each is no repetition
                state.apply(packet, now_ms)
    a_second = entries * scale / (days_ms / 1_000)
    puts_a_second = clients * scale * 1_000 / every_ms
    print(f"{clients * scale} clients: {puts_a_second:g} puts/s, {a_second:.2f} log entries/s")
    assert puts_a_second == 100
    assert 0.4 < a_second < 0.55
    assert state.packets.count() == clients


class Led(State):
    """A state whose proposals are applied at once; a proposer for what the leader does."""

    def __init__(self, store: TableStore) -> None:
        super().__init__(store)
        self.batches: list[int] = []

    async def propose(self, command: Command) -> Result:
        result = self.apply(command, self.now_ms)
        assert isinstance(result, ExpireResult)
        self.batches.append(result.removed)
        return result

    async def barrier(self, consistency: Consistency) -> None:
        raise NotImplementedError

    def freshness(self) -> Freshness:
        raise NotImplementedError


async def test_the_leader_expires_what_is_due_in_batches_and_is_silent_otherwise() -> None:
    state = Led(MemoryStore())
    duty = PacketExpiry(state, state.packets, Lifetimes(packets_ms=1_000, tombstones_ms=5_000))
    for number in range(600):
        state.apply(put(1, A, identity=Identity.from_seed(number.to_bytes(32, "big"))), 10 + number // 300)
    for state.now_ms, expected in ((1_010, []), (1_011, [256, 44]), (1_012, [256, 44])):
        state.batches.clear()
        while await duty.run(state.now_ms, 0):
            pass
        assert state.batches == expected
    assert state.packets.count() == state.ages == 0


@pytest.mark.parametrize(
    ("packets_ms", "interval_ms"), [(100, 100), (10_000, 1_000), (7 * 86_400_000, 60_000)]
)
def test_the_leader_looks_often_enough(packets_ms: int, interval_ms: int) -> None:
    state = Led(MemoryStore())
    lifetimes = Lifetimes(packets_ms=packets_ms, tombstones_ms=7 * 86_400_000)
    assert PacketExpiry(state, state.packets, lifetimes).interval_ms == interval_ms
