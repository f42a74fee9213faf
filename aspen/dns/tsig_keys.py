"""Where TSIG keys are kept: among the settings of the whole cluster, as `tsig/<name of the key>`.

Every member finds a key there the moment it is replicated. The value holds the secret, so it is
never logged nor shown; a list of keys shows names and algorithms alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

import msgspec

from aspen.dns.name import name_from_text, name_to_text
from aspen.dns.tsig import ALGORITHMS, TsigKey
from aspen.dns.zone import ZoneSettings
from aspen.errors import DnsWireError, InputError
from aspen.limits import TSIG_KEY_NAME_CHARS, TSIG_SECRET_BYTES, TSIG_SECRET_MIN_BYTES

PREFIX: Final = "tsig/"


class Settings(Protocol):
    """The cluster's settings, as the local replica has them."""

    def get(self, name: str) -> bytes | None: ...
    def under(self, prefix: str) -> dict[str, bytes]: ...


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    algorithm: str
    secret: bytes


_DECODER: Final = msgspec.msgpack.Decoder(_Stored)


class TsigKeys:
    """The keys there are (`aspen.dns.tsig.Keys`), and what their settings look like."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def get(self, name: bytes) -> TsigKey | None:
        """The key of a folded wire name."""
        value = self._settings.get(setting_name(name_to_text(name)))
        return None if value is None else decode_key(name, value)

    def all(self) -> list[TsigKey]:
        """Every key, by name."""
        stored = self._settings.under(PREFIX)
        keys = ((name_from_text(name[len(PREFIX) :]), value) for name, value in stored.items())
        return [key for name, value in keys if (key := decode_key(name, value)) is not None]


def setting_name(key_name: str) -> str:
    """The setting that a key is kept in; the name's case and final dot don't matter."""
    return PREFIX + (key_name.lower().rstrip(".") or ".")


def missing_keys(settings: ZoneSettings, known: Collection[TsigKey]) -> tuple[str, ...]:
    """The keys that a zone names and that aren't there: until they are, nobody can sign with them."""
    there = {setting_name(name_to_text(key.name)) for key in known}
    of_notify = (entry.partition("#")[2] for entry in settings.notify)
    named = dict.fromkeys([*settings.transfer_keys, *settings.update_keys, *filter(None, of_notify)])
    return tuple(name for name in named if setting_name(name) not in there)


def encode_key(key: TsigKey) -> bytes:
    return msgspec.msgpack.encode(_Stored(key.algorithm.text, key.secret))


def decode_key(name: bytes, value: bytes) -> TsigKey | None:
    """None for a key of a later version's algorithm."""
    stored = _DECODER.decode(value)
    algorithm = ALGORITHMS.get(stored.algorithm)
    return None if algorithm is None else TsigKey(name, algorithm, stored.secret)


def make_key(name: str, algorithm: str, secret: bytes) -> TsigKey:
    """A key as an operator describes it. Raises `InputError`, whose text never shows the secret."""
    if algorithm not in ALGORITHMS:
        raise InputError(f"the algorithm is one of {', '.join(ALGORITHMS)}")
    if not TSIG_SECRET_MIN_BYTES <= len(secret) <= TSIG_SECRET_BYTES:
        raise InputError(f"a secret is {TSIG_SECRET_MIN_BYTES} to {TSIG_SECRET_BYTES} bytes")
    if len(name) > TSIG_KEY_NAME_CHARS or not name.isascii() or not name.strip("."):
        raise InputError(f"a key's name is a domain name of at most {TSIG_KEY_NAME_CHARS} characters")
    try:
        wire = name_from_text(name.lower())
    except DnsWireError as error:
        raise InputError(f"not a name for a key: {error}") from None
    return TsigKey(wire, ALGORITHMS[algorithm], secret)
