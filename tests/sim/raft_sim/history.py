"""What clients asked and what they were told: the only thing that linearizability is judged by."""

from __future__ import annotations

from enum import Enum
from typing import Final

OPEN_END: Final = 2**62
"""When an operation ends whose outcome nobody knows: never, so it may happen at any time."""


class Kind(Enum):
    READ = "read"
    WRITE = "write"
    CAS = "cas"


class ReadMode(Enum):
    """How a read makes sure that it isn't stale."""

    READ_INDEX = "read_index"  # through any node; by a round of heartbeats or by lease, as configured
    LEADER = "leader"  # only on the leader, by its lease


class Outcome(Enum):
    PENDING = "pending"
    OK = "ok"
    REFUSED = "refused"  # it did not happen and never will
    UNKNOWN = "unknown"  # it may have happened, or may happen yet


class Operation:
    """One call of one client on one key. Values are unique; 0 is what a key holds at first."""

    __slots__ = (
        "called",
        "client",
        "ended",
        "expected",
        "found",
        "key",
        "kind",
        "mode",
        "outcome",
        "request_id",
        "value",
    )

    def __init__(
        self,
        client: int,
        kind: Kind,
        key: int,
        *,
        request_id: int = 0,
        value: int = 0,
        expected: int = 0,
        mode: ReadMode = ReadMode.READ_INDEX,
    ) -> None:
        self.client = client
        self.kind = kind
        self.key = key
        self.request_id = request_id
        self.value = value
        self.expected = expected
        self.mode = mode
        self.outcome = Outcome.PENDING
        self.found = 0
        """What the key held: a read's answer, and what a compare-and-swap compared with."""
        self.called = 0
        self.ended = OPEN_END

    @property
    def swapped(self) -> bool:
        """Whether a compare-and-swap that ended well found what it expected."""
        return self.found == self.expected

    def __repr__(self) -> str:
        what = {
            Kind.READ: f"read({self.mode.value}) k{self.key} -> {self.found}",
            Kind.WRITE: f"write k{self.key} = {self.value}",
            Kind.CAS: f"cas k{self.key} {self.expected} => {self.value}, found {self.found}",
        }[self.kind]
        end = "..." if self.ended == OPEN_END else str(self.ended)
        return f"[{self.called}..{end}] client {self.client} {what} ({self.outcome.value})"


class History:
    """All operations of a run, in the order in which they were called."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._moment = 0

    def call(self, operation: Operation) -> None:
        self._moment += 1
        operation.called = self._moment
        self.operations.append(operation)

    def end(self, operation: Operation, outcome: Outcome, found: int) -> None:
        """The client is told. An operation of unknown outcome never ends."""
        self._moment += 1
        operation.outcome = outcome
        operation.found = found
        if outcome is Outcome.OK:
            operation.ended = self._moment
