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
        """Raises `UnknownKey` unless the task at hand has given the key up."""
        answers = self._records.packet_answers(public_key)
        if answers is not None:
            return answers
        known, answers = self._elsewhere.known(public_key)
        if not known and public_key not in _given_up.get():
            raise UnknownKey(public_key, self._elsewhere)
        return answers


_given_up: ContextVar[frozenset[bytes]] = ContextVar("given_up", default=frozenset())


async def answering(answer: Callable[[], Awaitable[T]], wait_ms: int = DNS_ELSEWHERE_MS) -> T:
    """The result of `answer`, tried again for every unknown key that it meets, each looked up first.

    All lookups together take at most `wait_ms`; keys not found by then are denied.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + wait_ms / 1_000
    token = _given_up.set(frozenset())
    try:
        for _ in range(_TRIES):
            try:
                return await answer()
            except UnknownKey as unknown:
                _given_up.set(_given_up.get() | {unknown.public_key})
                try:
                    async with asyncio.timeout_at(ends_at):
                        if unknown.elsewhere is not None:
                            await unknown.elsewhere.look_up(unknown.public_key)
                except TimeoutError:
                    pass
        raise InvariantViolation("more unknown keys than a chain of aliases can have")
    finally:
        _given_up.reset(token)
