"""Ready replies to the very queries that came before.

Keyed by the whole query after its id, so that a hit needs no parsing. Replies without error are
kept apart from others: the worker's loop looks into `plain` itself, and each hit there is known to
be a NOERROR.

What a reply was made from is remembered by the first octets of the keys of those packets, so that
a changed packet takes only its own replies with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aspen.limits import DNS_CACHE_ENTRIES, DNS_CACHE_REPLY_BYTES

MARK_BYTES: Final = 8
"""Of a packet's key: as much as tells packets apart here. Two that share them share their fate."""

Replies = dict[bytes, bytes]


class ReplyCache:
    """Replies without their ids. `plain` and `errors` by the query after its id."""

    __slots__ = ("_by_mark", "errors", "plain")

    def __init__(self) -> None:
        self.plain: Replies = {}
        self.errors: Replies = {}
        self._by_mark: dict[bytes, bytes | tuple[bytes, ...]] = {}

    def __len__(self) -> int:
        return len(self.plain) + len(self.errors)

    def keep(self, replies: Replies, key: bytes, reply: bytes, packets: Iterable[bytes]) -> None:
        """Keep a reply in one of the two, made from the packets of those public keys."""
        if len(reply) > DNS_CACHE_REPLY_BYTES:
            return
        if len(self.plain) + len(self.errors) >= DNS_CACHE_ENTRIES:
            self.clear()
        replies[key] = reply
        by_mark = self._by_mark
        for packet in packets:
            mark = packet[:MARK_BYTES]
            kept = by_mark.setdefault(mark, key)
            if kept is not key:
                by_mark[mark] = (kept, key) if isinstance(kept, bytes) else (*kept, key)

    def forget(self, marks: Iterable[bytes]) -> None:
        """Forget every reply made from packets whose keys begin so."""
        plain, errors, by_mark = self.plain, self.errors, self._by_mark
        for mark in marks:
            kept = by_mark.pop(mark, ())
            for key in (kept,) if isinstance(kept, bytes) else kept:
                plain.pop(key, None)
                errors.pop(key, None)

    def clear(self) -> None:
        self.plain.clear()
        self.errors.clear()
        self._by_mark.clear()
