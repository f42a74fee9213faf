"""Commands that change the key-value store, and what applying them says."""

from __future__ import annotations

import msgspec

from aspen.errors import KeyValueStoreError
from aspen.limits import KV_BATCH_KEYS, KV_KEY_BYTES, KV_RESERVED_PREFIX, KV_VALUE_BYTES


class KvSet(msgspec.Struct, frozen=True, tag=2, array_like=True):
    """Set keys to values, all or none. Later pairs win over earlier ones with the same key."""

    pairs: tuple[tuple[bytes, bytes], ...]


class KvDelete(msgspec.Struct, frozen=True, tag=3, array_like=True):
    """Delete keys, those that exist."""

    keys: tuple[bytes, ...]


KvCommand = KvSet | KvDelete


class KvResult(msgspec.Struct, frozen=True):
    revision: int
    """The store's revision after the command."""
    changed: int
    """Keys set or deleted."""


def validate_key(key: bytes) -> None:
    """Raises `KeyValueStoreError.EmptyKey`, `.KeyTooLarge` or `.ReservedKey`."""
    if not key:
        raise KeyValueStoreError.EmptyKey("the key is empty")
    if len(key) > KV_KEY_BYTES:
        raise KeyValueStoreError.KeyTooLarge(
            f"the key is {len(key)} bytes; at most {KV_KEY_BYTES} are allowed"
        )
    if key.startswith(KV_RESERVED_PREFIX):
        raise KeyValueStoreError.ReservedKey(f"keys under {KV_RESERVED_PREFIX.decode()} are reserved")


def validate_kv_command(command: KvCommand) -> None:
    """Raises a kind of `KeyValueStoreError`."""
    match command:
        case KvSet(pairs=pairs):
            _validate_batch(len(pairs))
            for key, value in pairs:
                validate_key(key)
                if len(value) > KV_VALUE_BYTES:
                    raise KeyValueStoreError.ValueTooLarge(
                        f"the value is {len(value)} bytes; at most {KV_VALUE_BYTES} are allowed"
                    )
        case KvDelete(keys=keys):
            _validate_batch(len(keys))
            for key in keys:
                validate_key(key)


def _validate_batch(count: int) -> None:
    if not 1 <= count <= KV_BATCH_KEYS:
        raise KeyValueStoreError.BatchTooLarge(f"{count} keys in one batch; 1 to {KV_BATCH_KEYS} are allowed")
