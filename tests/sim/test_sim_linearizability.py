"""The judge of histories is judged: known histories, and every small one against brute force."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

import pytest
from raft_sim.history import OPEN_END, History, Kind, Operation, Outcome
from raft_sim.linearizability import check_history, check_key

OK, UNKNOWN, REFUSED = Outcome.OK, Outcome.UNKNOWN, Outcome.REFUSED


def _operation(kind: Kind, called: int, ended: int, outcome: Outcome = OK, **values: int) -> Operation:
    found = values.pop("found", 0)
    operation = Operation(1, kind, 0, **values)
    operation.called, operation.found, operation.outcome = called, found, outcome
    operation.ended = ended if outcome is OK else OPEN_END
    return operation


def write(called: int, ended: int, value: int, outcome: Outcome = OK) -> Operation:
    return _operation(Kind.WRITE, called, ended, outcome, value=value)


def read(called: int, ended: int, found: int, outcome: Outcome = OK) -> Operation:
    return _operation(Kind.READ, called, ended, outcome, found=found)


def swap(called: int, ended: int, expected: int, value: int, found: int, outcome: Outcome = OK) -> Operation:
    return _operation(Kind.CAS, called, ended, outcome, value=value, expected=expected, found=found)


ACCEPTED = {
    "nothing": [],
    "a key holds 0 at first": [read(1, 2, 0)],
    "one after the other": [write(1, 2, 7), read(3, 4, 7), write(5, 6, 8), read(7, 8, 8)],
    "a read during a write sees the old": [write(1, 4, 7), read(2, 3, 0)],
    "a read during a write sees the new": [write(1, 4, 7), read(2, 3, 7)],
    "reads during a write see first the old, then the new": [
        write(1, 8, 7),
        read(2, 3, 0),
        read(4, 5, 7),
        read(6, 7, 7),
    ],
    "concurrent writes, either last": [write(1, 4, 7), write(2, 3, 8), read(5, 6, 7)],
    "the other last": [write(1, 4, 7), write(2, 3, 8), read(5, 6, 8)],
    "swaps": [swap(1, 2, 0, 7, 0), swap(3, 4, 7, 8, 7), swap(5, 6, 7, 9, 8), read(7, 8, 8)],
    "a write of unknown outcome never happened": [write(1, 0, 7, UNKNOWN), read(2, 3, 0), read(9, 10, 0)],
    "a write of unknown outcome happens late": [
        write(1, 0, 7, UNKNOWN),
        read(2, 3, 0),
        write(4, 5, 8),
        read(6, 7, 8),
        read(8, 9, 7),
    ],
    "a swap of unknown outcome happened": [
        write(1, 2, 7),
        swap(3, 0, 7, 8, 0, UNKNOWN),
        read(4, 5, 7),
        read(6, 7, 8),
    ],
    "one unknown builds on another": [
        write(1, 0, 7, UNKNOWN),
        swap(2, 0, 7, 8, 0, UNKNOWN),
        read(3, 4, 8),
    ],
    "a refused write did not happen": [write(1, 2, 7, REFUSED), read(3, 4, 0)],
    "a read that was never answered": [write(1, 2, 7), read(3, 0, 0, UNKNOWN)],
}

REJECTED = {
    "a stale read": [write(1, 2, 7), read(3, 4, 0)],
    "a read of what nobody wrote": [read(1, 2, 7)],
    "a read of what is only written later": [read(1, 2, 7), write(3, 4, 7)],
    "an old value comes back": [write(1, 2, 7), write(3, 4, 8), read(5, 6, 7)],
    "reads go back in time": [write(1, 6, 7), read(2, 3, 7), read(4, 5, 0)],
    "two readers see two orders": [
        write(1, 4, 7),
        write(2, 3, 8),
        read(5, 6, 7),
        read(7, 8, 8),
    ],
    "a lost update": [swap(1, 2, 0, 7, 0), swap(3, 4, 0, 8, 0)],
    "a swap that must have succeeded": [write(1, 2, 7), swap(3, 4, 7, 8, 7), read(5, 6, 7)],
    "a refused write is seen": [write(1, 2, 7, REFUSED), read(3, 4, 7)],
    "a write of unknown outcome happens twice": [
        write(1, 0, 7, UNKNOWN),
        read(2, 3, 7),
        write(4, 5, 8),
        read(6, 7, 8),
        read(8, 9, 7),
    ],
    "a swap of unknown outcome that can't have happened": [
        write(1, 2, 7),
        swap(3, 0, 5, 8, 0, UNKNOWN),
        read(4, 5, 8),
    ],
}


@pytest.mark.parametrize("history", ACCEPTED.values(), ids=ACCEPTED)
def test_accepts(history: list[Operation]) -> None:
    assert check_key(history) is None


@pytest.mark.parametrize("history", REJECTED.values(), ids=REJECTED)
def test_rejects(history: list[Operation]) -> None:
    problem = check_key(history)
    assert problem is not None
    assert "undecided" not in problem


def _has_an_order(operations: Sequence[Operation], value: int = 0) -> bool:
    """By trying all of them."""
    if not any(operation.outcome is OK for operation in operations):
        return True
    first_end = min(operation.ended for operation in operations)
    for operation in operations:
        if operation.called > first_end:
            continue
        done = operation.outcome is OK
        if operation.kind is not Kind.WRITE and done and operation.found != value:
            continue
        after = value
        if operation.kind is Kind.WRITE or (operation.kind is Kind.CAS and operation.expected == value):
            after = operation.value
        if _has_an_order([other for other in operations if other is not operation], after):
            return True
    return False


def _small_history(random: Random) -> list[Operation]:
    count = random.randrange(1, 8)
    times = random.sample(range(100), 2 * count)
    history = []
    for number in range(count):
        called, ended = sorted(times[2 * number : 2 * number + 2])
        kind = random.choice(list(Kind))
        outcome = UNKNOWN if kind is not Kind.READ and random.random() < 0.25 else OK
        history.append(
            _operation(
                kind,
                called,
                ended,
                outcome,
                value=number + 1 if kind is not Kind.READ else 0,
                expected=random.randrange(count + 1),
                found=random.randrange(count + 1) if kind is not Kind.WRITE else 0,
            )
        )
    return sorted(history, key=lambda operation: operation.called)


def test_agrees_with_brute_force() -> None:
    random = Random(7)
    verdicts = []
    for _ in range(8_000):
        history = _small_history(random)
        verdict = check_key(history) is None
        assert verdict is _has_an_order(history), history
        verdicts.append(verdict)
    assert min(verdicts.count(True), verdicts.count(False)) > 1_000


def _long_history(random: Random, length: int, clients: int) -> list[Operation]:
    """What clients see of one register that serves each of them at a moment of its own."""
    history: list[Operation] = []
    value = now = 0
    busy = [0] * clients
    for number in range(1, length + 1):
        client = random.randrange(clients)
        now = max(now, busy[client]) + 2
        kind = random.choice(list(Kind))
        expected = value if random.random() < 0.5 else 0
        operation = _operation(
            kind,
            now - random.randrange(3 * clients),
            now + random.randrange(3 * clients),
            value=number if kind is not Kind.READ else 0,
            expected=expected,
            found=value if kind is not Kind.WRITE else 0,
        )
        if kind is Kind.WRITE or (kind is Kind.CAS and expected == value):
            value = number
        history.append(operation)
    return sorted(history, key=lambda operation: operation.called)


def test_judges_two_thousand_operations_of_ten_clients_quickly() -> None:
    history = _long_history(Random(3), 2_000, 10)
    began = time.process_time()
    assert check_key(history) is None
    stale = next(operation for operation in reversed(history) if operation.kind is Kind.READ)
    stale.found = 1_000_000
    assert check_key(history) is not None
    assert time.process_time() - began < 5


def test_a_search_that_takes_too_long_is_no_pass() -> None:
    history = _long_history(Random(3), 200, 10)
    assert "undecided" in str(check_key(history, most_steps=20))


def test_values_must_be_unique() -> None:
    with pytest.raises(ValueError, match="differ"):
        check_key([write(1, 2, 7), write(3, 4, 7)])
    with pytest.raises(ValueError, match="differ"):
        check_key([write(1, 2, 0)])


def test_keys_are_judged_apart() -> None:
    history = History()
    first, second = Operation(1, Kind.WRITE, 1, value=7), Operation(2, Kind.READ, 2)
    for operation in (first, second):
        history.call(operation)
    history.end(first, OK, 0)
    history.end(second, OK, 0)
    assert check_history(history) is None
    stale = Operation(3, Kind.READ, 1)
    history.call(stale)
    history.end(stale, OK, 0)
    assert str(check_history(history)).startswith("key 1:")
