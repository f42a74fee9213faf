"""Finding the data for a name (RFC 1034 §4.3.2): which origin, which source, what it says.

Sources of data sit behind the origins. Today there are two: the packet of the key whose label
stands directly below the origin, and the origin's own records. Each answers with the same
`ReadyAnswer`, so further sources (authored zones) join here without the pipeline noticing.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from aspen.dns.origin import DnsSettings, Origin, Origins, compile_origins
from aspen.dns.ready import NO_SUCH_NAME, Outcome, ReadyAnswer, find_answer, find_any
from aspen.dns.wire import ANY
from aspen.errors import IdentityError
from aspen.z32 import KEY_CHARS, decode_key

__all__ = ["DnsSettings", "Found", "Outcome", "Records", "View", "lookup"]


class Records(Protocol):
    """What DNS reads of the replicated state."""

    def packet_answers(self, public_key: bytes) -> bytes | None:
        """The ready-made answers of a key's live packet; None if there is none."""
        ...


class View(NamedTuple):
    """What answers are made from: the replica, and the origins it is seen under."""

    records: Records
    origins: Origins

    @classmethod
    def build(cls, records: Records, settings: DnsSettings) -> View:
        """Raises `ConfigError`."""
        return cls(records, compile_origins(settings))


class Found(NamedTuple):
    """A lookup's result. `origin` is None exactly when the outcome is REFUSED."""

    answer: ReadyAnswer
    origin: Origin | None
    origin_offset: int
    """Where the origin begins in the name."""


_NOT_OURS: Final = Found(ReadyAnswer(Outcome.REFUSED, 0, b""), None, 0)


def lookup(view: View, name: bytes, qtype: int) -> Found:
    """Look up a folded wire name. Never None, never an exception for any name or type."""
    origins = view.origins
    offset = key_offset = 0
    while (origin := origins.get(name[offset:])) is None:
        length = name[offset]
        if not length:
            return _NOT_OURS
        key_offset = offset
        offset += 1 + length
    answers, relative = origin.answers, name[:offset]
    if offset and name[key_offset] == KEY_CHARS:
        try:
            public_key = decode_key(name[key_offset + 1 : offset])
        except IdentityError:
            pass  # 52 characters, but not a key: a name like any other
        else:
            packet = view.records.packet_answers(public_key)
            if packet is None:
                return Found(NO_SUCH_NAME, origin, offset)
            answers, relative = packet, name[:key_offset]
    find = find_any(answers, relative) if qtype == ANY else find_answer(answers, relative, qtype)
    return Found(find, origin, offset)
