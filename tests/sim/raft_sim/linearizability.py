"""Whether what clients were told could have come from one copy of each key, served one at a time.

Each operation must seem to happen at one moment between its call and its end (Herlihy and Wing,
1990). The search is Wing and Gong's, with Lowe's memory of configurations seen before: an
operation that could be next is taken out of the history; when an operation ends that was not
taken out, the last choice was wrong. Keys are independent of each other (locality), so each is
searched alone.

Every value is written once, which leaves little to choose:

- An operation that only looks, and sees what it found, is taken at once: that can't be wrong.
- A value can't be overwritten while someone is still to find it: it will never come back.
- A write whose value nobody found may be taken right before any other write, unnoticed.
- An operation of unknown outcome never ends: it may take effect at any later time, or never. If
  nobody found its value, leaving it out changes nothing for the others.

A search that takes too long is not a pass: it is reported like a violation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from raft_sim.history import OPEN_END, History, Kind, Operation, Outcome

MOST_STEPS: Final = 1_000_000
"""Per key; ordinary histories need a few for each operation."""


class _Entry:
    """The call or the end of an operation, in a list doubly linked by time."""

    __slots__ = ("bit", "end", "next", "operation", "previous")

    def __init__(self, operation: Operation | None, bit: int, end: _Entry | None) -> None:
        self.operation = operation
        self.bit = bit
        self.end = end
        """A call's end; `None` in an end."""
        self.previous: _Entry = self
        self.next: _Entry = self

    def insert_before(self, other: _Entry) -> None:
        self.previous, self.next = other.previous, other
        self.previous.next = other.previous = self

    def lift(self) -> None:
        """Take the call and its end out of the list."""
        for entry in (self, self.end):
            assert entry is not None
            entry.previous.next = entry.next
            entry.next.previous = entry.previous

    def put_back(self) -> None:
        """Undo `lift`; in the opposite order of lifting only."""
        for entry in (self.end, self):
            assert entry is not None
            entry.previous.next = entry
            entry.next.previous = entry


class _Move:
    """One choice and all that followed from it at once, to be undone together."""

    __slots__ = ("lifted", "resume", "taken", "value")

    def __init__(self, value: int, taken: int, resume: _Entry | None) -> None:
        self.lifted: list[_Entry] = []
        self.value = value
        self.taken = taken
        self.resume = resume
        """Where to look for another choice if this one was wrong; `None` if there was none."""


def check_history(history: History) -> str | None:
    """`None` if the history is linearizable, else what is wrong."""
    by_key: dict[int, list[Operation]] = {}
    for operation in history.operations:
        by_key.setdefault(operation.key, []).append(operation)
    for key in sorted(by_key):
        problem = check_key(by_key[key])
        if problem is not None:
            return f"key {key}: {problem}"
    return None


def check_key(operations: Sequence[Operation], most_steps: int = MOST_STEPS) -> str | None:
    """`None` if these operations on one key, in the order of their calls, are linearizable.

    Raises `ValueError` if a value is written twice.
    """
    written = [operation.value for operation in operations if operation.kind is not Kind.READ]
    if len({0, *written}) <= len(written):
        raise ValueError("the values written to a key must differ from each other and from 0")
    return _Search(operations).run(most_steps)


class _Search:
    def __init__(self, operations: Sequence[Operation]) -> None:
        self._to_be_found = Counter(
            operation.found
            for operation in operations
            if operation.outcome is Outcome.OK and operation.kind is not Kind.WRITE
        )
        """By value: how many operations are left that found it. An unfound value may be overwritten."""
        self._found = _noticed(operations, set(self._to_be_found))
        relevant = [operation for operation in operations if self._is_relevant(operation)]
        self._count = len(relevant)
        self._head = _linked(relevant)
        self._value = 0
        self._taken = 0
        self._moves: list[_Move] = []
        self._seen: set[tuple[int, int]] = set()

    def _is_relevant(self, operation: Operation) -> bool:
        """Leave out what did not happen, and what may have happened without anyone's noticing."""
        if operation.outcome is Outcome.OK:
            return True
        return (
            operation.outcome is not Outcome.REFUSED
            and operation.kind is not Kind.READ
            and operation.value in self._found
        )

    def run(self, most_steps: int) -> str | None:
        head = self._head
        self._settle(_Move(0, 0, None))
        deepest, stuck = -1, None
        entry: _Entry | None = head.next
        for _ in range(most_steps):
            if entry is None:  # nothing else to choose here
                entry = self._undo()
                continue
            if entry is head:
                return None
            operation = entry.operation
            assert operation is not None
            if entry.end is not None:
                entry = head.next if self._choose(entry, operation) else entry.next
            elif operation.ended == OPEN_END:
                return None  # all that ended has been taken
            elif self._is_unnoticed(operation) and self._take_unnoticed(operation):
                entry = head.next
            else:
                if self._taken.bit_count() > deepest:
                    deepest, stuck = self._taken.bit_count(), operation
                if not self._moves:
                    return f"{deepest} of {self._count} operations fit, then not {stuck}"
                entry = self._undo()
        return f"undecided after {most_steps} steps, which is not a pass"

    def _is_unnoticed(self, operation: Operation) -> bool:
        return operation.kind is Kind.WRITE and operation.value not in self._found

    def _choose(self, entry: _Entry, operation: Operation) -> bool:
        """Have the operation called at `entry` change the value next, if it can."""
        value = self._value
        left = self._to_be_found[value]
        if operation.kind is Kind.WRITE:
            if left or operation.value not in self._found:
                return False
        elif operation.kind is Kind.CAS and operation.expected == value:
            done = operation.outcome is Outcome.OK
            if left != done or (done and not operation.swapped):
                return False
        else:
            return False
        move = _Move(value, self._taken, entry.next)
        if operation.kind is Kind.WRITE:
            self._lift_unnoticed(move)
        self._lift(move, entry)
        return self._made(move, operation.value)

    def _take_unnoticed(self, operation: Operation) -> bool:
        """A write that nobody noticed ends: it can be put off no longer."""
        if self._to_be_found[self._value]:
            return False
        move = _Move(self._value, self._taken, None)
        self._lift_unnoticed(move)
        return self._made(move, operation.value)

    def _made(self, move: _Move, value: int) -> bool:
        self._value = value
        self._settle(move)
        self._moves.append(move)
        configuration = (self._taken, value)
        if configuration in self._seen:
            self._undo()
            return False
        self._seen.add(configuration)
        return True

    def _undo(self) -> _Entry | None:
        if not self._moves:
            return self._first_end()
        move = self._moves.pop()
        for entry in reversed(move.lifted):
            operation = entry.operation
            assert operation is not None
            if operation.outcome is Outcome.OK and operation.kind is not Kind.WRITE:
                self._to_be_found[operation.found] += 1
            entry.put_back()
        self._value, self._taken = move.value, move.taken
        return move.resume

    def _first_end(self) -> _Entry:
        entry = self._head.next
        while entry.end is not None:
            entry = entry.next
        return entry

    def _lift(self, move: _Move, entry: _Entry) -> None:
        operation = entry.operation
        assert operation is not None
        entry.lift()
        move.lifted.append(entry)
        self._taken |= entry.bit
        if operation.outcome is Outcome.OK and operation.kind is not Kind.WRITE:
            self._to_be_found[operation.found] -= 1

    def _settle(self, move: _Move) -> None:
        """Take all that can be under way now, changes nothing and found what is there."""
        value = self._value
        entry = self._head.next
        while entry.end is not None:
            operation = entry.operation
            assert operation is not None
            previous = entry.previous
            if operation.found == value and operation.outcome is Outcome.OK and _only_looks(operation):
                self._lift(move, entry)
                entry = previous
            entry = entry.next

    def _lift_unnoticed(self, move: _Move) -> None:
        entry = self._head.next
        while entry.end is not None:
            operation = entry.operation
            assert operation is not None
            previous = entry.previous
            if self._is_unnoticed(operation):
                self._lift(move, entry)
                entry = previous
            entry = entry.next


def _noticed(operations: Sequence[Operation], found: set[int]) -> set[int]:
    """The values that were found, or that a swap of unknown outcome must have found if it happened."""
    open_swaps = [
        operation
        for operation in operations
        if operation.kind is Kind.CAS and operation.outcome in (Outcome.UNKNOWN, Outcome.PENDING)
    ]
    while more := {swap.expected for swap in open_swaps if swap.value in found} - found:
        found |= more
    return found


def _only_looks(operation: Operation) -> bool:
    return operation.kind is Kind.READ or (operation.kind is Kind.CAS and not operation.swapped)


def _linked(operations: Sequence[Operation]) -> _Entry:
    """The calls and ends by time, after a head that is also the list's end."""
    head = _Entry(None, 0, None)
    entries: list[tuple[int, int, _Entry]] = []
    for number, operation in enumerate(operations):
        end = _Entry(operation, 0, None)
        entries.append((operation.called, number, _Entry(operation, 1 << number, end)))
        entries.append((operation.ended, number, end))
    for _, _, entry in sorted(entries, key=lambda item: item[:2]):
        entry.insert_before(head)
    return head
