"""Names under unknown keys: looked up elsewhere, answered from the start, denied if nobody has them."""

from __future__ import annotations

import asyncio
import time

import pytest

from aspen.dns.fallback import DemandingRecords, FallbackRecords, UnknownKey, answering, is_foreign
from aspen.limits import DNS_CNAME_CHAIN

KEY, OTHER = b"k" * 32, b"o" * 32


class Replica:
    def __init__(self, **answers: bytes) -> None:
        self.answers = {KEY: answers["key"]} if "key" in answers else {}

    def packet_answers(self, public_key: bytes) -> bytes | None:
        return self.answers.get(public_key)


class FakeElsewhere:
    """Has `answers`; each lookup takes `takes_s`, or fails."""

    def __init__(
        self, answers: dict[bytes, bytes] | None = None, takes_s: float = 0, fails: bool = False
    ) -> None:
        self.answers = answers or {}
        self.takes_s, self.fails = takes_s, fails
        self.looked_up: list[bytes] = []
        self.remembered: set[bytes] = set()

    def known(self, public_key: bytes) -> tuple[bool, bytes | None]:
        if public_key not in self.remembered:
            return False, None
        return True, self.answers.get(public_key)

    async def look_up(self, public_key: bytes) -> None:
        self.looked_up.append(public_key)
        await asyncio.sleep(self.takes_s)
        if not self.fails:
            self.remembered.add(public_key)


async def asked(records: FallbackRecords, *keys: bytes, wait_ms: int = 1_000) -> list[bytes | None]:
    """All the keys' answers, as one answer reads them."""

    async def once() -> list[bytes | None]:
        return [records.packet_answers(key) for key in keys]

    return await answering(once, wait_ms)


async def test_what_the_replica_has_is_not_looked_for_elsewhere() -> None:
    elsewhere = FakeElsewhere({KEY: b"theirs"})
    assert await asked(FallbackRecords(Replica(key=b"ours"), elsewhere), KEY) == [b"ours"]
    assert elsewhere.looked_up == []


async def test_every_unknown_key_of_an_answer_is_looked_up_once() -> None:
    elsewhere = FakeElsewhere({KEY: b"one", OTHER: b"two"})
    records = FallbackRecords(Replica(), elsewhere)
    assert await asked(records, KEY, OTHER, KEY) == [b"one", b"two", b"one"]
    assert elsewhere.looked_up == [KEY, OTHER]
    assert await asked(records, KEY) == [b"one"]
    assert elsewhere.looked_up == [KEY, OTHER]


async def test_a_key_nobody_has_is_denied() -> None:
    assert await asked(FallbackRecords(Replica(), FakeElsewhere()), KEY) == [None]


async def test_a_key_that_can_not_be_looked_up_is_denied_and_tried_again_by_the_next_answer() -> None:
    elsewhere = FakeElsewhere(fails=True)
    records = FallbackRecords(Replica(), elsewhere)
    assert await asked(records, KEY) == [None]
    assert await asked(records, KEY) == [None]
    assert elsewhere.looked_up == [KEY, KEY]


async def test_nobody_waits_longer_than_told_however_many_keys_there_are() -> None:
    elsewhere = FakeElsewhere({KEY: b"one"}, takes_s=60)
    started = time.monotonic()
    assert await asked(FallbackRecords(Replica(), elsewhere), KEY, OTHER, wait_ms=20) == [None, None]
    assert time.monotonic() - started < 5


async def test_an_answer_gives_up_for_itself_alone() -> None:
    """Another that asks at the same time for the same key still waits for it."""
    elsewhere = FakeElsewhere({KEY: b"one"}, takes_s=0.05)
    records = FallbackRecords(Replica(), elsewhere)
    hasty = asyncio.create_task(asked(records, KEY, wait_ms=1))
    patient = asyncio.create_task(asked(records, KEY, wait_ms=5_000))
    assert await hasty == [None]
    assert await patient == [b"one"]


async def test_a_worker_is_told_which_key_is_unknown() -> None:
    assert DemandingRecords(Replica(key=b"ours")).packet_answers(KEY) == b"ours"
    with pytest.raises(UnknownKey) as unknown:
        DemandingRecords(Replica()).packet_answers(KEY)
    assert unknown.value.public_key == KEY
    assert unknown.value.elsewhere is None


async def test_a_chain_of_aliases_may_lead_to_as_many_unknown_keys_as_it_has_names() -> None:
    keys = [bytes((number,)) * 32 for number in range(DNS_CNAME_CHAIN + 1)]
    elsewhere = FakeElsewhere({key: b"x" for key in keys})
    assert await asked(FallbackRecords(Replica(), elsewhere), *keys) == [b"x"] * len(keys)


async def test_who_can_not_wait_is_told_to_even_of_what_is_known_but_not_of_what_nobody_has() -> None:
    """So that there is one way by which elsewhere's word goes out, and it is marked there."""
    elsewhere = FakeElsewhere({KEY: b"one"})
    records = FallbackRecords(Replica(), elsewhere)
    assert await asked(records, KEY, OTHER) == [b"one", None]
    with pytest.raises(UnknownKey) as unknown:
        records.packet_answers(KEY)
    assert unknown.value.elsewhere is elsewhere
    assert records.packet_answers(OTHER) is None


async def test_only_an_answer_that_holds_elsewheres_word_is_foreign() -> None:
    records = FallbackRecords(Replica(), FakeElsewhere({KEY: b"one"}))
    seen: list[bool] = []

    async def once(key: bytes) -> None:
        records.packet_answers(key)
        seen.append(is_foreign())

    await answering(lambda: once(KEY))
    await answering(lambda: once(OTHER))
    assert seen == [True, False]
    assert not is_foreign()
