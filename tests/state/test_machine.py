"""The state machine: the same commands give the same bytes, whatever the batching or the clocks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.identity import Identity
from aspen.state.commands import Command, Rejected, encode_command
from aspen.state.kv_commands import KvDelete, KvSet
from aspen.state.machine import Machine
from aspen.state.packet_commands import PacketOutcome, PacketPut, PacketResult
from aspen.state.packets import LmdbPackets, LmdbRecords
from aspen.state.store import TABLES, Store

MAP_BYTES = 64 * 1024**2
ALICE = Identity.from_seed(b"a" * 32)

# One TXT record at the key itself: header, owner <z32>., TYPE, CLASS, TTL, RDATA.
_HEADER = bytes.fromhex("000084000000000100000000")


def txt_message(identity: Identity, text: bytes) -> bytes:
    owner = b"\x34" + identity.z32.encode() + b"\0"
    rdata = bytes([len(text)]) + text
    return _HEADER + owner + bytes.fromhex("001000010000001e") + len(rdata).to_bytes(2, "big") + rdata


def packet(timestamp_us: int, text: bytes = b"x", identity: Identity = ALICE) -> PacketPut:
    """A `PacketPut` as the relay proposes it; the machine trusts its signature was verified."""
    payload = bytes(64) + timestamp_us.to_bytes(8, "big") + txt_message(identity, text)
    return PacketPut(identity.endpoint_id, payload)


def dump(store: Store) -> dict[str, list[tuple[bytes, bytes]]]:
    with store.read() as txn:
        return {name: list(txn.cursor(db=store.tables[name])) for name in TABLES}


def apply_all(store: Store, commands: list[tuple[int, Command]], batch: int) -> list[object]:
    machine, results = Machine(store), []
    for start in range(0, len(commands), batch):
        with store.write() as txn:
            machine.begin(txn)
            for offset, (time_ms, command) in enumerate(commands[start : start + batch]):
                results.append(machine.apply(txn, start + offset + 1, time_ms, encode_command(command)))
            machine.end(txn)
    return results


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, map_bytes=MAP_BYTES)
    yield store
    store.close()


def test_the_most_recent_packet_wins(store: Store) -> None:
    results = apply_all(store, [(1, packet(20, b"b")), (2, packet(10, b"z")), (3, packet(20, b"b"))], 1)
    assert results == [
        PacketResult(PacketOutcome.STORED, 20),
        PacketResult(PacketOutcome.OLDER, 20),
        PacketResult(PacketOutcome.IDENTICAL, 20),
    ]
    record = LmdbPackets(store).get(ALICE.endpoint_id)
    assert record is not None
    assert (record.timestamp_us, record.received_at_ms) == (20, 3)


def test_of_equal_timestamps_the_larger_message_wins(store: Store) -> None:
    results = apply_all(store, [(1, packet(5, b"m")), (2, packet(5, b"a")), (3, packet(5, b"z"))], 3)
    outcomes = [result.outcome for result in results if isinstance(result, PacketResult)]
    assert outcomes == [PacketOutcome.STORED, PacketOutcome.OLDER, PacketOutcome.STORED]


def test_each_packet_has_one_place_in_the_order_of_age(store: Store) -> None:
    apply_all(store, [(time, packet(time)) for time in (10, 20, 30)] + [(40, packet(30))], 1)
    assert [key[1:9] for key, _ in dump(store)["packets_by_age"]] == [(40).to_bytes(8, "big")]


def test_dns_sees_a_packet_once_it_is_stored(store: Store) -> None:
    records = LmdbRecords(store, wall_ms=lambda: 1)
    assert records.packet_answers(ALICE.endpoint_id) is None
    apply_all(store, [(1, packet(1))], 1)
    assert records.packet_answers(ALICE.endpoint_id)


def test_only_what_dns_can_see_moves_its_generation(store: Store) -> None:
    machine, changed = Machine(store), []
    for command in (packet(5), packet(5), packet(4), KvSet(((b"k", b"v"),)), packet(6)):
        with store.write() as txn:
            machine.begin(txn)
            machine.apply(txn, 1, 1, encode_command(command))
            changed.append(machine.end(txn))
    assert changed == [True, False, False, False, True]


def test_time_never_goes_back(store: Store) -> None:
    apply_all(store, [(1_000, packet(1)), (400, packet(2))], 1)
    record = LmdbPackets(store).get(ALICE.endpoint_id)
    assert record is not None
    assert record.received_at_ms == 1_000


def test_a_committed_command_that_makes_no_sense_is_rejected_and_changes_nothing(store: Store) -> None:
    before, machine = dump(store), Machine(store)
    with store.write() as txn:
        machine.begin(txn)
        for data in (b"", b"\xc1", encode_command(KvSet(())), encode_command(KvDelete((b"",)))):
            assert isinstance(machine.apply(txn, 9, 0, data), Rejected)
        machine.end(txn)
    assert dump(store) == before


small_keys = st.sampled_from([b"a", b"b", b"c"])
commands = st.one_of(
    st.builds(packet, st.integers(1, 5), st.sampled_from([b"x", b"y"])),
    st.builds(
        KvSet, st.lists(st.tuples(small_keys, st.binary(max_size=3)), min_size=1, max_size=3).map(tuple)
    ),
    st.builds(KvDelete, st.lists(small_keys, min_size=1, max_size=3).map(tuple)),
)


@settings(max_examples=40, deadline=None)
@given(
    script=st.lists(st.tuples(st.integers(0, 50), commands), max_size=25),
    batches=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_equal_logs_give_equal_state_however_they_are_batched(
    script: list[tuple[int, Command]], batches: tuple[int, int]
) -> None:
    dumps, results = [], []
    for batch in batches:
        with tempfile.TemporaryDirectory() as folder:
            store = Store.open(Path(folder), map_bytes=MAP_BYTES)
            results.append(apply_all(store, script, batch))
            dumps.append(dump(store))
            store.close()
    assert dumps[0] == dumps[1]
    assert results[0] == results[1]
