"""Keys that the replica doesn't know, looked up elsewhere before they are denied.

Answering is synchronous, and looking elsewhere is not. So the records that answers are made from raise
`UnknownKey` for a key that nobody has looked for yet; whoever can wait (the node process) catches it, has
the key looked up, and answers again, from the start. By then elsewhere's answer is known, or given up on,
and the name is denied. A UDP worker can't wait and passes the datagram on (`forward`).

What elsewhere said is never written into the replica from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, Protocol, TypeVar

from aspen.dns.lookup import Records
from aspen.errors import InvariantViolation
from aspen.limits import DNS_CNAME_CHAIN, DNS_ELSEWHERE_MS

T = TypeVar("T")

_TRIES: Final = DNS_CNAME_CHAIN + 2
"""Every alias of a chain may lead to a key of its own."""


class UnknownKey(Exception):
    """A key isn't in the replica, and elsewhere has not been asked lately."""

    def __init__(self, public_key: bytes, elsewhere: Elsewhere | None = None) -> None:
        """`elsewhere` is to be asked; None where nobody can wait for it."""
        super().__init__(public_key.hex())
        self.public_key = public_key
        self.elsewhere = elsewhere


class Elsewhere(Protocol):
    """Where keys are looked for that the replica lacks."""

    def known(self, public_key: bytes) -> tuple[bool, bytes | None]:
        """Whether no lookup is needed just now; and the ready-made answers, if there are any."""
        ...

    async def look_up(self, public_key: bytes) -> None:
        """Have a key looked up; afterwards it is `known`, unless nobody could be asked. Never raises."""
        ...


class DemandingRecords:
    """A worker's records: an unknown key is not denied but raised."""

    __slots__ = ("_records",)

    def __init__(self, records: Records) -> None:
        self._records = records

    def packet_answers(self, public_key: bytes) -> bytes | None:
        answers = self._records.packet_answers(public_key)
        if answers is None:
            raise UnknownKey(public_key)
        return answers


class FallbackRecords:
    """The node process's records: the replica, then what elsewhere is known to say."""

    __slots__ = ("_elsewhere", "_records")

    def __init__(self, records: Records, elsewhere: Elsewhere) -> None:
        self._records = records
        self._elsewhere = elsewhere

    def packet_answers(self, public_key: bytes) -> bytes | None:
        """Raises `UnknownKey` unless `answering` has asked for the key, or given it up."""
        answers = self._records.packet_answers(public_key)
        if answers is not None:
            return answers
        known, answers = self._elsewhere.known(public_key)
        waiting = _waiting.get()
        if waiting is None:
            # Only `answering` can wait, and only there is an answer marked as somebody else's.
            if not known or answers is not None:
                raise UnknownKey(public_key, self._elsewhere)
            return None
        if not known and public_key not in waiting.given_up:
            raise UnknownKey(public_key, self._elsewhere)
        waiting.foreign |= answers is not None
        return answers


class _Waiting:
    """An answer in the making, whose maker can wait."""

    def __init__(self) -> None:
        self.given_up: set[bytes] = set()
        self.foreign = False
        """Whether what it says so far is somebody else's word."""


_waiting: ContextVar[_Waiting | None] = ContextVar("waiting", default=None)


def is_foreign() -> bool:
    """Whether the answer being made holds what elsewhere said. For use within `answering`."""
    waiting = _waiting.get()
    return waiting is not None and waiting.foreign


async def answering(answer: Callable[[], Awaitable[T]], wait_ms: int = DNS_ELSEWHERE_MS) -> T:
    """The result of `answer`, tried again for every unknown key that it meets, each looked up first.

    All lookups together take at most `wait_ms`; keys not found by then are denied.
    """
    ends_at = asyncio.get_running_loop().time() + wait_ms / 1_000
    waiting = _Waiting()
    token = _waiting.set(waiting)
    try:
        for _ in range(_TRIES):
            waiting.foreign = False
            try:
                return await answer()
            except UnknownKey as unknown:
                waiting.given_up.add(unknown.public_key)
                try:
                    async with asyncio.timeout_at(ends_at):
                        if unknown.elsewhere is not None:
                            await unknown.elsewhere.look_up(unknown.public_key)
                except TimeoutError:
                    pass
        raise InvariantViolation("more unknown keys than a chain of aliases can have")
    finally:
        _waiting.reset(token)
