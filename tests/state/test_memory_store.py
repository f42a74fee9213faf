"""The state in memory is the state on disk: the same commands make the same tables and answers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.state.checkpoint import hash_state
from aspen.state.commands import Command, encode_command
from aspen.state.kv_commands import KvDelete, KvSet
from aspen.state.kv_reader import LmdbKv, under
from aspen.state.machine import Machine
from aspen.state.memory_store import MemoryStore
from aspen.state.store import STATE_TABLES, Store, TableStore

KEYS = st.sampled_from([b"a", b"ab", b"b", b"b\x00", b"\xff", b"_system:no", b""])
COMMANDS = st.one_of(
    st.builds(KvSet, st.lists(st.tuples(KEYS, st.binary(max_size=3)), min_size=1, max_size=3).map(tuple)),
    st.builds(KvDelete, st.lists(KEYS, min_size=1, max_size=3).map(tuple)),
)
SCANS = st.tuples(
    st.sampled_from([b"", b"a", b"b", b"\xff"]),
    st.sampled_from([None, b"a", b"ab", b"\xff"]),
    st.integers(1, 4),
    st.integers(1, 8),
)


def apply(store: TableStore, commands: list[Command]) -> list[object]:
    machine = Machine(store)
    results: list[object] = []
    with store.write() as txn:  # type: ignore[attr-defined]
        machine.begin(txn)
        for index, command in enumerate(commands, 1):
            results.append(machine.apply(txn, index, 1_000 + index, encode_command(command)))
        machine.end(txn)
    return results


@settings(max_examples=40, deadline=None)
@given(commands=st.lists(COMMANDS, max_size=12), scans=st.lists(SCANS, max_size=5))
def test_memory_and_lmdb_agree(
    commands: list[Command], scans: list[tuple[bytes, bytes | None, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disk, memory = Store.open(Path(folder), map_bytes=1 << 20), MemoryStore()
        try:
            assert apply(disk, commands) == apply(memory, commands)
            for prefix, after, limit, max_bytes in scans:
                range_ = under(prefix, after=after)
                ours, theirs = (LmdbKv(store).scan(range_, limit, max_bytes) for store in (disk, memory))
                assert ours == theirs
            with disk.read() as on_disk, memory.read() as in_memory:
                for name in STATE_TABLES:
                    assert list(on_disk.cursor(db=disk.tables[name])) == list(
                        in_memory.cursor(db=memory.tables[name])
                    )
                assert hash_state(on_disk, disk.tables) == hash_state(in_memory, memory.tables)
        finally:
            disk.close()


def test_a_cursor_stands_where_lmdbs_does() -> None:
    store = MemoryStore()
    table = store.tables["kv"]
    with store.write() as txn:
        cursor = txn.cursor(db=table)
        assert not cursor.first()
        assert not cursor.last()
        assert cursor.item() == (b"", b"")
        for key in (b"b", b"a", b"c"):
            txn.put(key, key * 2, db=table)
        assert cursor.last()
        assert cursor.item() == (b"c", b"cc")
        assert cursor.set_range(b"aa")
        assert cursor.key() == b"b"
        assert cursor.next()
        assert not cursor.next()
        assert txn.delete(b"b", db=table)
        assert not txn.delete(b"b", db=table)
        assert txn.stat(table)["entries"] == 2
        assert [key for key, _ in txn.cursor(db=table)] == [b"a", b"c"]
