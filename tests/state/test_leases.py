"""Leases in the tables, the leader's count of time, and answers that are remembered."""

from __future__ import annotations

from typing import Any

import pytest

from aspen.limits import KV_REQUEST_MS, LEASE_RETRY_MS
from aspen.state.apply import ApplyContext
from aspen.state.kv import KV_HANDLERS
from aspen.state.kv_commands import (
    KvDelete,
    KvIncrement,
    KvIncrementResult,
    KvOnce,
    KvRefused,
    KvReplayed,
    KvResult,
    KvSet,
    KvTxn,
    KvTxnResult,
    LeaseExpire,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    TxnGet,
    TxnPut,
)
from aspen.state.kv_reader import KvRange, LmdbKv
from aspen.state.lease_expiry import LeaseClock
from aspen.state.leases import LmdbLeases
from aspen.state.memory_store import MemoryStore


class Log:
    """Commands, applied one after the other."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.kv, self.leases = LmdbKv(self.store), LmdbLeases(self.store)
        self.index = 0
        self.time_ms = 1_000

    def do(self, command: Any) -> Any:
        self.index += 1
        with self.store.write() as txn:
            context = ApplyContext(self.store, txn, self.index, self.time_ms)
            return KV_HANDLERS[type(command)](context, command)

    def keys(self) -> list[bytes]:
        return [entry.key for entry in self.kv.scan(KvRange(), 10_000, 10**9).entries]

    def sizes(self) -> tuple[int, int, int]:
        """Leases, attached keys, renewals."""
        tables = self.store.tables
        return tuple(len(tables[name].keys) for name in ("leases", "lease_keys", "leases_by_renewal"))  # type: ignore[return-value]


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_lease_takes_its_keys_along_at_one_revision(log: Log) -> None:
    lease = log.do(LeaseGrant(5_000)).lease
    assert lease == log.index
    log.do(KvSet(((b"a", b""), (b"b", b"")), lease=lease))
    log.do(KvTxn((), (TxnPut(b"c", b"", lease), TxnPut(b"d", b""))))
    entry = log.kv.get(b"a")
    assert entry is not None
    assert entry.lease == lease
    found = log.leases.get(lease)
    assert found is not None
    assert found.keys == 3
    assert log.leases.keys(lease, 10) == [b"a", b"b", b"c"]
    ended = log.do(LeaseRevoke(lease))
    assert (ended.changed, ended.revision) == (3, 3)
    assert log.keys() == [b"d"]
    assert log.sizes() == (0, 0, 0)
    refused = log.do(LeaseRevoke(lease))
    assert (refused.code, refused.revision) == ("lease_not_found", 3)


def test_a_key_leaves_its_lease_when_it_is_set_deleted_or_given_another(log: Log) -> None:
    one, two = log.do(LeaseGrant(5_000)).lease, log.do(LeaseGrant(5_000)).lease
    log.do(KvSet(((b"a", b""), (b"b", b""), (b"c", b""), (b"d", b"1")), lease=one))
    log.do(KvSet(((b"a", b""),)))
    log.do(KvDelete((b"b",)))
    log.do(KvSet(((b"c", b""),), lease=two))
    log.do(KvIncrement(b"d", 1))
    assert log.leases.keys(one, 10) == [b"d"], "counting up keeps the lease"
    assert log.leases.keys(two, 10) == [b"c"]
    log.do(LeaseRevoke(one))
    assert log.keys() == [b"a", b"c"]


def test_nothing_is_attached_to_a_lease_that_is_not_there(log: Log) -> None:
    for command in (KvSet(((b"a", b""),), lease=9), KvTxn((), (TxnPut(b"b", b""), TxnPut(b"a", b"", 9)))):
        refused = log.do(command)
        assert isinstance(refused, KvRefused)
        assert refused.code == "lease_not_found"
    assert log.keys() == []
    assert log.do(LeaseKeepAlive((9,))).code == "lease_not_found"


def test_a_time_to_live_goes_with_the_last_of_its_keys(log: Log) -> None:
    first = log.do(KvSet(((b"a", b""), (b"b", b"")), ttl_ms=5_000))
    assert isinstance(first, KvResult)
    assert first.lease == log.index
    log.do(KvSet(((b"a", b""),)))
    assert log.leases.get(first.lease) is not None
    log.do(KvDelete((b"b",)))
    assert log.sizes() == (0, 0, 0)
    log.do(KvSet(((b"a", b""),), ttl_ms=5_000))
    log.do(KvSet(((b"a", b""),), ttl_ms=5_000))
    assert log.sizes() == (1, 1, 1), "set again, its time begins anew"


def test_a_renewal_that_comes_first_wins(log: Log) -> None:
    lease = log.do(LeaseGrant(5_000)).lease
    log.do(KvSet(((b"a", b""),), lease=lease))
    log.do(LeaseKeepAlive((lease, 77)))
    assert log.do(LeaseExpire(((lease, lease),))).changed == 0
    assert log.keys() == [b"a"]
    assert log.do(LeaseExpire(((lease, 3), (77, 3)))).changed == 1
    assert log.sizes() == (0, 0, 0)


def test_many_keys_go_in_several_commands_and_nobody_joins_or_renews_meanwhile(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.state.leases.KV_DELETE_RANGE_KEYS", 2)
    lease = log.do(LeaseGrant(5_000)).lease
    log.do(KvSet(tuple((b"%d" % n, b"") for n in range(5)), lease=lease))
    assert log.do(LeaseRevoke(lease)).changed == 2
    assert log.do(LeaseKeepAlive((lease,))).code == "lease_not_found"
    assert log.do(KvSet(((b"x", b""),), lease=lease)).code == "lease_not_found"
    clock = LeaseClock(log.leases)
    ended = 2
    for now_ms in range(0, 1_000, 200):
        command, _ = clock.due(now_ms)
        if command is not None:
            ended += log.do(command).changed
    assert (ended, log.keys(), log.sizes()) == (5, [], (0, 0, 0))


def test_too_many_leases_are_refused(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.state.leases.LEASES", 1)
    log.do(LeaseGrant(5_000))
    assert log.do(LeaseGrant(5_000)).code == "too_many"
    assert log.do(KvSet(((b"a", b""),), ttl_ms=5_000)).code == "too_many"
    assert log.keys() == []


# --- the leader's count -------------------------------------------------------------------------


def test_the_count_begins_when_a_renewal_is_seen(log: Log) -> None:
    lease = log.do(LeaseGrant(1_000)).lease
    clock = LeaseClock(log.leases)
    assert clock.due(0) == (None, False)
    assert clock.due(999) == (None, False)
    log.do(LeaseKeepAlive((lease,)))
    assert clock.due(1_200) == (None, False), "renewed just in time"
    assert clock.due(2_199) == (None, False)
    command, _ = clock.due(2_200)
    assert command == LeaseExpire(((lease, 2),))


def test_an_expiry_that_did_not_come_about_is_proposed_again(log: Log) -> None:
    log.do(LeaseGrant(1_000))
    clock = LeaseClock(log.leases)
    clock.due(0)
    first, _ = clock.due(1_000)
    assert first is not None
    assert clock.due(1_200)[0] is None
    again, _ = clock.due(1_000 + LEASE_RETRY_MS)
    assert again == first
    log.do(first)
    assert clock.due(1_000 + 2 * LEASE_RETRY_MS)[0] is None


def test_a_new_leadership_gives_every_lease_its_full_time(log: Log) -> None:
    log.do(LeaseGrant(1_000))
    clock = LeaseClock(log.leases)
    clock.due(0)
    assert clock.due(900)[0] is None
    assert clock.due(50)[0] is None, "another leadership has begun"
    assert clock.due(1_049)[0] is None
    assert clock.due(1_050)[0] is not None


def test_more_renewals_than_one_turn_takes_in_are_taken_in_turns(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.state.lease_expiry.LEASE_READ", 3)
    monkeypatch.setattr("aspen.state.lease_expiry.LEASE_BATCH", 4)
    for _ in range(10):
        log.do(LeaseGrant(1_000))
    clock = LeaseClock(log.leases)
    turns = 1
    while clock.due(0 if turns == 1 else 1)[1]:
        turns += 1
    assert turns == 4
    ended: list[int] = []
    more = True
    while more:
        command, more = clock.due(1_001)
        if command is not None:
            ended += [lease for lease, _ in command.leases]
    assert sorted(ended) == list(range(1, 11))


# --- once ---------------------------------------------------------------------------------------


def test_a_request_sent_again_is_answered_as_before(log: Log) -> None:
    once = KvOnce(b"id", KvIncrement(b"n", 1))
    first = log.do(once)
    assert first == KvIncrementResult(1, 1)
    log.do(KvIncrement(b"n", 10))
    assert log.do(once) == KvReplayed(first)
    refused = log.do(KvOnce(b"id", KvIncrement(b"n", 2)))
    assert refused == KvRefused("request_reused", "the idempotency key stood for another request", 2)
    entry = log.kv.get(b"n")
    assert entry is not None
    assert entry.value == b"11"


def test_refusals_and_failed_comparisons_are_remembered_too(log: Log) -> None:
    refused = log.do(KvOnce(b"1", KvSet(((b"a", b""),), lease=9)))
    found = log.do(KvOnce(b"2", KvTxn((), (TxnGet(b"a"),))))
    assert isinstance(found, KvTxnResult)
    log.do(LeaseGrant(1_000))
    log.do(KvSet(((b"a", b""),)))
    assert log.do(KvOnce(b"1", KvSet(((b"a", b""),), lease=9))) == KvReplayed(refused)
    assert log.do(KvOnce(b"2", KvTxn((), (TxnGet(b"a"),)))) == KvReplayed(found)


def test_answers_are_forgotten_after_ten_minutes_and_not_before(log: Log) -> None:
    for n in range(50):
        log.do(KvOnce(b"%d" % n, KvIncrement(b"n", 1)))
    log.time_ms += KV_REQUEST_MS - 1
    assert isinstance(log.do(KvOnce(b"7", KvIncrement(b"n", 1))), KvReplayed)
    log.time_ms += 1
    assert log.do(KvOnce(b"7", KvIncrement(b"n", 1))).value == 51
    for n in range(100, 110):
        log.do(KvOnce(b"%d" % n, KvIncrement(b"n", 1)))
    tables = log.store.tables
    assert len(tables["requests"].keys) == len(tables["requests_by_time"].keys) == 11


def test_an_answer_too_long_to_keep_is_owned_up_to(log: Log) -> None:
    log.do(KvSet(((b"a", bytes(10_000)),)))
    once = KvOnce(b"id", KvTxn((), (TxnGet(b"a"), TxnPut(b"b", b""))))
    assert isinstance(log.do(once), KvTxnResult)
    again = log.do(once)
    assert isinstance(again, KvReplayed)
    assert isinstance(again.result, KvRefused)
    assert again.result.code == "result_too_large"
    assert log.kv.revision() == 2


def test_when_too_much_is_remembered_what_is_new_is_refused(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.state.requests.KV_REQUESTS", 1)
    log.do(KvOnce(b"1", KvIncrement(b"n", 1)))
    assert log.do(KvOnce(b"2", KvIncrement(b"n", 1))).code == "too_many"
    assert isinstance(log.do(KvOnce(b"1", KvIncrement(b"n", 1))), KvReplayed)
