"""Keys and values as commands take and show them."""

from __future__ import annotations

import base64
import binascii
import os
import sys
from typing import TYPE_CHECKING, Any

from aspen.cli.common import json_bytes
from aspen.errors import InputError
from aspen.limits import KV_VALUE_BYTES

if TYPE_CHECKING:
    from aspen.client import Change, KvEntry

_SHOWN_CHARS = 120  # of a value, in a table


def input_bytes(text: str) -> bytes:
    """An argument's bytes; of `-`, what standard input gives."""
    return sys.stdin.buffer.read(KV_VALUE_BYTES + 1) if text == "-" else os.fsencode(text)


def entry_json(entry: KvEntry | Change) -> dict[str, Any]:
    return {
        **json_bytes("key", entry.key),
        **json_bytes("value", entry.value),
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
        "lease": entry.lease,
    }


def json_to_bytes(item: dict[str, Any], name: str) -> bytes:
    """The bytes of `name_base64` if it is there, else of the text `name`. Raises `InputError`."""
    try:
        if (encoded := item.get(f"{name}_base64")) is not None:
            return base64.b64decode(encoded, validate=True)
        if isinstance(text := item[name], str):
            return text.encode()
        raise InputError(f"{name} is not text: {text!r}")
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise InputError(f"there is no {name} (text) or {name}_base64 in it") from None


def shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
