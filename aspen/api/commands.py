"""What `KeyValueStore.write` takes, and how it stands in the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from aspen.state.kv_commands import KvDelete, KvDeleteRange, KvPlainCommand, KvSet
from aspen.state.kv_reader import under
from aspen.state.kv_recipes import batch, compare_and_delete, compare_and_swap, is_as_expected

Text = str | bytes
"""A key or a value; text stands for its UTF-8."""
Pairs = Mapping[str, str] | Mapping[bytes, bytes] | tuple[tuple[Text, Text], ...]


class WriteCommand:
    """`WriteCommand.Set("k", "v")` and its siblings. Each is one command: all of it happens, or nothing."""

    @dataclass(frozen=True, slots=True)
    class Set:
        key: Text
        value: Text
        lease: int = 0
        """The key ends with this lease; 0 for none."""
        ttl_ms: int = 0
        """The key ends after so long, unless it is set again; 0 for never."""

    @dataclass(frozen=True, slots=True)
    class SetMulti:
        """Several keys, all or none."""

        pairs: Pairs
        lease: int = 0
        ttl_ms: int = 0

    @dataclass(frozen=True, slots=True)
    class Delete:
        key: Text

    @dataclass(frozen=True, slots=True)
    class DeleteMulti:
        keys: tuple[Text, ...]

    @dataclass(frozen=True, slots=True)
    class DeletePrefix:
        """The first 1,000 keys that begin with `prefix`; the result says whether there are `more`."""

        prefix: Text

    @dataclass(frozen=True, slots=True)
    class CompareAndSwap:
        """Set the key if its value is `expected` (None: if there is no such key)."""

        key: Text
        expected: Text | None
        new_value: Text
        lease: int = 0

    @dataclass(frozen=True, slots=True)
    class CompareAndDelete:
        """Delete the key if its value is `expected`."""

        key: Text
        expected: Text

    @dataclass(frozen=True, slots=True)
    class Batch:
        """Set some keys and delete others, all or none. No key stands in it twice."""

        pairs: Pairs = ()
        deletes: tuple[Text, ...] = ()

    Any: ClassVar = (
        Set | SetMulti | Delete | DeleteMulti | DeletePrefix | CompareAndSwap | CompareAndDelete | Batch
    )


AnyWrite = (
    WriteCommand.Set
    | WriteCommand.SetMulti
    | WriteCommand.Delete
    | WriteCommand.DeleteMulti
    | WriteCommand.DeletePrefix
    | WriteCommand.CompareAndSwap
    | WriteCommand.CompareAndDelete
    | WriteCommand.Batch
)


def octets(text: Text) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _items(pairs: Pairs) -> tuple[tuple[bytes, bytes], ...]:
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    return tuple((octets(key), octets(value)) for key, value in items)


def as_replicated(command: AnyWrite) -> KvPlainCommand:
    """The command as it is proposed."""
    match command:
        case WriteCommand.Set(key, value, lease, ttl_ms):
            return KvSet(((octets(key), octets(value)),), lease, ttl_ms)
        case WriteCommand.SetMulti(pairs, lease, ttl_ms):
            return KvSet(_items(pairs), lease, ttl_ms)
        case WriteCommand.Delete(key):
            return KvDelete((octets(key),))
        case WriteCommand.DeleteMulti(keys):
            return KvDelete(tuple(map(octets, keys)))
        case WriteCommand.DeletePrefix(prefix):
            range_ = under(octets(prefix))
            return KvDeleteRange(range_.start, range_.end)
        case WriteCommand.CompareAndSwap(key, expected, new_value, lease):
            there = is_as_expected(octets(key), value=None if expected is None else octets(expected))
            return compare_and_swap(there, octets(new_value), lease)
        case WriteCommand.CompareAndDelete(key, expected):
            return compare_and_delete(is_as_expected(octets(key), value=octets(expected)))
        case WriteCommand.Batch(pairs, deletes):
            return batch(_items(pairs), map(octets, deletes))
