"""Commands of versions to come: never passed over, never taken for something else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from aspen.errors import StorageError
from aspen.state.commands import Command, encode_command
from aspen.state.kv_commands import KvSet, KvTxn, TxnPut
from aspen.state.level import CLUSTER_SETTING, LEVELS, check_level, cluster_level
from aspen.state.machine import Machine
from aspen.state.settings import LmdbSettings, SettingPut
from aspen.state.store import STATE_TABLES, Store

NEWER = {
    "a kind of its own": [79, b"x"],
    "one more field": [*msgspec.msgpack.decode(encode_command(KvSet(((b"k", b"v"),)))), 0, 0, 0, 0, 0],
    "a new operation inside": [21, [], [[99, b"k"]], []],
    "one more field inside": [21, [], [[2, b"k", b"v", 0, 0, 0, 0]], []],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, map_bytes=16 * 1_048_576)
    yield store
    store.close()


def state_of(store: Store) -> dict[str, list[tuple[bytes, bytes]]]:
    with store.read() as txn:
        return {name: list(txn.cursor(db=store.tables[name])) for name in STATE_TABLES}


def apply(store: Store, *commands: bytes) -> None:
    """In one transaction, at the log's indexes from 8 on."""
    machine = Machine(store)
    with store.write() as txn:
        machine.begin(txn)
        for index, command in enumerate(commands, 8):
            machine.apply(txn, index, 0, command)


@pytest.mark.parametrize("what", NEWER)
def test_a_newer_version_s_command_stops_this_one(what: str, store: Store) -> None:
    before = state_of(store)
    with pytest.raises(StorageError, match=r"log index 9 holds a command .* start the newer version"):
        apply(store, encode_command(KvSet(((b"before", b"it"),))), msgspec.msgpack.encode(NEWER[what]))
    assert state_of(store) == before  # of the whole transaction, nothing happened


def parts(kind: Any) -> Iterator[type]:
    """All structures that stand in commands."""
    for argument in get_args(kind):
        yield from parts(argument)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from parts(field.type)


def test_no_structure_in_a_command_passes_over_what_it_does_not_know() -> None:
    found = set(parts(Command))
    assert {KvTxn, TxnPut, SettingPut} <= found
    lax = sorted(kind.__name__ for kind in found if not kind.__struct_config__.forbid_unknown_fields)
    assert lax == []


def test_a_version_too_old_for_the_state_refuses_it(store: Store) -> None:
    settings = LmdbSettings(store)
    check_level(settings)
    with store.write() as txn:
        txn.put(CLUSTER_SETTING.encode(), b"3", db=store.tables["settings"])
    assert cluster_level(settings) == 3
    check_level(settings, own=3)
    with pytest.raises(StorageError, match="commands of level 3, and this version of Aspen knows level 2"):
        check_level(settings, own=2)


def test_levels_are_those_of_commands() -> None:
    assert set(LEVELS) <= set(get_args(Command))
