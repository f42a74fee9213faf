"""Settings of the whole cluster: small named values that every member must agree on.

Secrets that members share (of DNS cookies, TSIG keys, certificates) and switches that an operator
flips for all nodes at once. A value is opaque here; the module that owns a name says what it holds.
"""

from __future__ import annotations

import msgspec

from aspen.errors import CommandError
from aspen.limits import SETTING_NAME_BYTES, SETTING_VALUE_BYTES
from aspen.state.apply import ApplyContext
from aspen.state.store import TableStore


class SettingPut(msgspec.Struct, frozen=True, tag=60, array_like=True, forbid_unknown_fields=True):
    """Set a setting."""

    name: str
    value: bytes
    only_if_absent: bool = False
    """Leave a value that is there: of several members that make up a secret, the first wins."""


class SettingDelete(msgspec.Struct, frozen=True, tag=61, array_like=True, forbid_unknown_fields=True):
    name: str


SettingCommand = SettingPut | SettingDelete


class SettingResult(msgspec.Struct, frozen=True):
    changed: bool


def validate_setting_command(command: SettingCommand) -> None:
    """Raises `CommandError`."""
    if not 1 <= len(command.name.encode()) <= SETTING_NAME_BYTES:
        raise CommandError(f"a setting's name is 1 to {SETTING_NAME_BYTES} bytes")
    if isinstance(command, SettingPut) and len(command.value) > SETTING_VALUE_BYTES:
        raise CommandError(f"a setting is at most {SETTING_VALUE_BYTES} bytes")


def apply_setting_put(context: ApplyContext, command: SettingPut) -> SettingResult:
    table = context.store.tables["settings"]
    changed = context.txn.put(
        command.name.encode(), command.value, overwrite=not command.only_if_absent, db=table
    )
    context.dns_changed |= changed
    return SettingResult(changed)


def apply_setting_delete(context: ApplyContext, command: SettingDelete) -> SettingResult:
    changed = context.txn.delete(command.name.encode(), db=context.store.tables["settings"])
    context.dns_changed |= changed
    return SettingResult(changed)


class LmdbSettings:
    """Reads settings from the local replica."""

    __slots__ = ("_store",)

    def __init__(self, store: TableStore) -> None:
        self._store = store

    def get(self, name: str) -> bytes | None:
        with self._store.read() as txn:
            value: bytes | None = txn.get(name.encode(), db=self._store.tables["settings"])
        return value

    def under(self, prefix: str) -> dict[str, bytes]:
        """Every setting whose name begins with `prefix`, in the order of names."""
        found: dict[str, bytes] = {}
        start = prefix.encode()
        with self._store.read() as txn:
            cursor = txn.cursor(db=self._store.tables["settings"])
            there = cursor.set_range(start)
            while there and cursor.key().startswith(start):
                found[cursor.key().decode()] = cursor.value()
                there = cursor.next()
        return found

    def any_under(self, prefix: str) -> bool:
        """Whether there is a setting whose name begins with `prefix`."""
        start = prefix.encode()
        with self._store.read() as txn:
            cursor = txn.cursor(db=self._store.tables["settings"])
            return bool(cursor.set_range(start)) and bytes(cursor.key()).startswith(start)
