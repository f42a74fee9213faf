"""The exception tree of Aspen, whole, in one place.

::

    AspenError
    ├── InvariantViolation          a bug in Aspen: the node must stop rather than go on
    ├── ConfigError                 a setting is unknown, unparsable or unsafe; names its source
    │   └── CertificateError        a certificate or its private key can't be used
    ├── InputError                  bytes from outside don't parse; nothing was changed
    │   ├── IdentityError           a key file, public key or z-base-32 text is not one
    │   ├── DnsWireError            not a DNS message (carries the RCODE that says so)
    │   ├── PacketError             not a pkarr signed packet (carries which check failed)
    │   ├── RaftWireError           not a Raft frame
    │   ├── GossipError             not a gossip message, or one not to be believed (says why)
    │   ├── TicketError             not a ticket, or one that doesn't hold (says why)
    │   ├── RelayError              a relay or its client breaks the rules, or may not (says which)
    │   ├── HandshakeError          a peer failed authentication (carries the reason counted)
    │   ├── ZoneRuleError           a record that may not stand in a zone (carries the rule)
    │   ├── MasterFileError         not a master file (carries the line)
    │   └── CommandError            not a replicated command, or one that breaks a limit
    ├── BackupError                 a backup is damaged, cut short, or none (says at which byte)
    ├── HttpError                   an HTTP request is refused (carries status and code)
    ├── StorageError                LMDB or the disk failed; the node can't acknowledge writes
    │   └── StorageFull             no room: nothing was changed, and the same may be tried again
    ├── ProposalError               a write did not (certainly) happen
    │   ├── NoLeader                no leader is known: the write was not proposed
    │   ├── NotLeader               only the leader may do this, and this node isn't (says who is)
    │   ├── Overloaded              a bounded queue is full: the write was not proposed
    │   ├── NoRoom                  this node's disk is full: the write was not proposed
    │   └── OutcomeUnknown          proposed, but its fate can't be known from here
    ├── JoinError                   a node can't join the cluster it was to (carries why)
    ├── NetworkError                the DHT can't be asked just now (code); nothing was changed
    ├── ClientError                 a node's refusal or silence, as its HTTP client sees it (status, code)
    │   ├── ClientNotFound          no such key or packet
    │   ├── ClientCompareFailed     a key is not as the write expected: nothing was changed
    │   ├── ClientCompacted         the revision asked for is no longer kept (says which is)
    │   ├── ClientUnavailable       nobody answers, or no leader is known: nothing was changed
    │   └── ClientOutcomeUnknown    a write was sent; whether it happened can't be known from here
    ├── ZoneError                   what authors of zones hear (rule, record, line; nested names below)
    ├── ControlPlaneError           what ClusterController raises (nested names below)
    └── KeyValueStoreError          what KeyValueStore raises (nested names below)

One rule per branch: `InputError` is the sender's fault and maps to 400 or an RCODE;
`ProposalError` is the cluster's state and maps to 503; `InvariantViolation` is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar


class AspenError(Exception):
    """Base of everything Aspen raises on purpose."""


class CodedError(AspenError):
    """One of several things may be wrong: `code` says which, for programs and counters."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class InvariantViolation(AspenError):
    """A condition that must always hold does not: a bug, never an operating condition."""


def invariant(condition: object, message: str) -> None:
    """Raise `InvariantViolation` unless `condition` holds. Checked in production too."""
    if not condition:
        raise InvariantViolation(message)


class ConfigError(AspenError):
    """Settings can't be used. The message names each and its source; `problems` has them one by one."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class CertificateError(ConfigError):
    """A certificate, or the private key that goes with it, can't be used."""


class InputError(AspenError):
    """Bytes or text from outside that don't parse or verify."""


class IdentityError(InputError):
    """Not an identity key, public key or z-base-32 text."""


class DnsWireError(InputError):
    """Not a well-formed DNS message (RFC 1035 §4). `rcode` is what to answer with."""

    def __init__(self, reason: str, rcode: int = 1) -> None:
        super().__init__(reason)
        self.rcode = rcode


class RaftWireError(InputError):
    """Not a Raft frame, or one over the limits."""


class CodedInputError(CodedError, InputError):
    """Input that may be wrong in several ways."""


class PacketError(CodedInputError):
    """Not a valid pkarr signed packet. `code`, the check that failed: `key`, `size`, `signature`, `timestamp`
    or `dns`."""


class GossipError(CodedInputError):
    """Not a gossip message, or an announcement not to be believed. `code` is the counter it goes under."""


class TicketError(CodedInputError):
    """Not a ticket, or no good one. `code`: `malformed`, `forged`, `expired`, `not_yet`, `foreign`."""


class RelayError(CodedInputError):
    """What a relay and its client refuse each other for.

    `code` is one of `malformed`, `too_large`, `version`, `wrong_name`, `wrong_key`, `not_allowed`, `full`,
    `timeout`, `replaced`, `stopping`.
    """


class HandshakeError(CodedInputError):
    """A peer failed authentication. `code` is the counter it goes under."""


class ZoneRuleError(InputError):
    """A record or name breaks a rule of authored zones. `rule` is its short name, for programs."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason


class MasterFileError(InputError):
    """A master file can't be read. `line` counts from 1; 0 if it is about the file as a whole."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.line = line
        self.reason = reason


class BackupError(AspenError):
    """Not a backup, or one that is damaged. `offset` is the byte of the file where it shows."""

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(f"at byte {offset}: {reason}")
        self.offset = offset


class CommandError(InputError):
    """Not a replicated command, or one that breaks a limit."""


class HttpError(AspenError):
    """An HTTP request is refused. `code` is the JSON `error` value, the message its `reason`. With `close`,
    the connection ends after the answer: what follows on it can't be trusted."""

    def __init__(
        self,
        status: int,
        code: str,
        reason: str,
        *,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.headers = headers
        self.close = close


class StorageError(AspenError):
    """The store failed; what was asked is not durable."""


class StorageFull(StorageError):
    """The disk, its quota or the map has no room for a transaction: none of it happened."""


class ProposalError(AspenError):
    """A proposed write did not certainly happen. `code` is the JSON `error` value."""

    code: ClassVar[str] = "proposal_failed"


class NoLeader(ProposalError):
    """No leader is known here; the write was not proposed anywhere."""

    code = "no_leader"


class NotLeader(ProposalError):
    """Only the leader can do this. `leader_id` is the node id of the leader, 0 if unknown."""

    code = "not_leader"

    def __init__(self, leader_id: int) -> None:
        where = f"the leader is node {leader_id}" if leader_id else "no leader is known"
        super().__init__(f"this node is not the leader; {where}")
        self.leader_id = leader_id


class Overloaded(ProposalError):
    """A bounded queue is full; the write was not proposed."""

    code = "overloaded"


class NoRoom(ProposalError):
    """This node can store nothing until there is room again; the write was not proposed."""

    code = "no_room"


class OutcomeUnknown(ProposalError):
    """The write was proposed; whether it commits can't be known from here. Never retried silently."""

    code = "outcome_unknown"


class JoinError(CodedError):
    """This node can't become a member. `code`: as of `TicketError`, or `node_id_taken`, `removed` (its key),
    `wrong_cookie`, `full` (the cluster), `unreachable` (nobody who could let it in: try again), `unanswered`
    (the same, but one that was asked may have let it in: try again with the same data directory).
    """


class NetworkError(CodedError):
    """The world outside the cluster (the DHT) can't be asked just now. `code` is the JSON `error` value.

    `network_busy`: too many lookups are under way. `network_unreachable`: nobody there answers.
    """


class ClientError(AspenError):
    """A request to a node failed. `status` is 0 if no answer came; `code` is the JSON `error` value."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code


class ClientNotFound(ClientError):
    """The key or packet does not exist."""


class ClientCompareFailed(ClientError):
    """The key is not as the write expected it; nothing was changed. `current` is the entry, as JSON, if
    there is one (and the answer told it)."""

    def __init__(self, status: int, code: str, reason: str, *, current: dict[str, Any] | None = None) -> None:
        super().__init__(status, code, reason)
        self.current = current


class ClientCompacted(ClientError):
    """Changes, or the state, as of that revision are no longer known; `revision` is the oldest that is."""

    def __init__(self, status: int, code: str, reason: str, *, revision: int = 0) -> None:
        super().__init__(status, code, reason)
        self.revision = revision


class ClientUnavailable(ClientError):
    """The node can't be reached or can't serve now; the request changed nothing."""


class ClientOutcomeUnknown(ClientError):
    """A write was sent, but no answer says whether it happened."""


_E = TypeVar("_E", bound=AspenError)


def _kind(base: type[_E], name: str, code: str, meaning: str = "") -> type[_E]:
    """A kind of error that stands inside the one it is a kind of: `KeyValueStoreError.NotFound`."""
    body = {"code": code, "__doc__": meaning or None, "__module__": __name__}
    return type(f"{base.__name__.partition('.')[0]}.{name}", (base,), body)


def _printable(text: str) -> str:
    """Octets that were no text, kept in a text, as escapes: every encoder takes it then."""
    return text.encode("utf-8", "backslashreplace").decode()


class ZoneError(AspenError):
    """A zone was not changed as asked: nothing was. Catch it, or one of its kinds: `ZoneError.NotFound`.

    `rule` is the short name of the rule that was broken, `record` the record as its author wrote it,
    `line` where it stands in a master file (0: in none).
    """

    code: ClassVar[str] = "failed"

    NotFound: ClassVar[type[ZoneError]]
    Exists: ClassVar[type[ZoneError]]
    RuleBroken: ClassVar[type[ZoneError]]
    PrerequisiteFailed: ClassVar[type[ZoneError]]
    ImportLost: ClassVar[type[ZoneError]]
    Limit: ClassVar[type[ZoneError]]

    def __init__(self, reason: str, *, rule: str = "", record: str = "", line: int = 0) -> None:
        where = f"line {line}: " if line else ""
        what = f"in the record `{record}`: " if record else ""
        super().__init__(_printable(where + what + reason))
        self.rule = rule
        self.record = _printable(record)
        self.line = line


ZoneError.NotFound = _kind(ZoneError, "NotFound", "no_such_zone")
ZoneError.Exists = _kind(ZoneError, "Exists", "zone_exists")
ZoneError.RuleBroken = _kind(ZoneError, "RuleBroken", "rule_broken")
ZoneError.PrerequisiteFailed = _kind(ZoneError, "PrerequisiteFailed", "prerequisite_failed")
ZoneError.ImportLost = _kind(ZoneError, "ImportLost", "import_lost")
ZoneError.Limit = _kind(ZoneError, "Limit", "limit")


class ControlPlaneError(AspenError):
    """What `ClusterController` raises. Catch it, or one of its kinds: `ControlPlaneError.Timeout`.

    All but `OutcomeUnknown` mean that the membership is as it was (but for a `Timeout` of `init`:
    the cluster is founded then, and waits for a quorum of its members). `UnknownNode` is an
    `InvalidRequest` about a node that is no member. `NotLeader` is for controllers that speak to the
    leader only: those of Aspen never raise it, since any member brings a change to the leader.
    """

    code: ClassVar[str] = "failed"

    InvalidRequest: ClassVar[type[ControlPlaneError]]
    UnknownNode: ClassVar[type[ControlPlaneError]]
    NotInitialized: ClassVar[type[ControlPlaneError]]
    Failed: ClassVar[type[ControlPlaneError]]
    Timeout: ClassVar[type[ControlPlaneError]]
    NotLeader: ClassVar[type[ControlPlaneError]]
    OutcomeUnknown: ClassVar[type[ControlPlaneError]]


ControlPlaneError.InvalidRequest = _kind(ControlPlaneError, "InvalidRequest", "invalid_request")
ControlPlaneError.UnknownNode = _kind(ControlPlaneError.InvalidRequest, "UnknownNode", "unknown_node")
ControlPlaneError.NotInitialized = _kind(ControlPlaneError, "NotInitialized", "not_initialized")
ControlPlaneError.Failed = _kind(ControlPlaneError, "Failed", "failed")
ControlPlaneError.Timeout = _kind(ControlPlaneError, "Timeout", "timeout")
ControlPlaneError.NotLeader = _kind(ControlPlaneError, "NotLeader", "not_leader")
ControlPlaneError.OutcomeUnknown = _kind(ControlPlaneError, "OutcomeUnknown", "outcome_unknown")


class KeyValueStoreError(AspenError):
    """What `KeyValueStore` raises. Catch it, or one of its kinds: `KeyValueStoreError.NotFound`.

    `revision` is the store's where the refusal was decided, or the one that still can be asked for;
    0 if there is none to tell.
    """

    code: ClassVar[str] = "failed"

    def __init__(self, reason: str, *, revision: int = 0) -> None:
        super().__init__(reason)
        self.revision = revision

    NotFound: ClassVar[type[KeyValueStoreError]]
    EmptyKey: ClassVar[type[KeyValueStoreError]]
    KeyTooLarge: ClassVar[type[KeyValueStoreError]]
    ValueTooLarge: ClassVar[type[KeyValueStoreError]]
    BatchTooLarge: ClassVar[type[KeyValueStoreError]]
    ReservedKey: ClassVar[type[KeyValueStoreError]]
    InvalidRequest: ClassVar[type[KeyValueStoreError]]
    CompareFailed: ClassVar[type[KeyValueStoreError]]
    LeaseNotFound: ClassVar[type[KeyValueStoreError]]
    NotANumber: ClassVar[type[KeyValueStoreError]]
    Compacted: ClassVar[type[KeyValueStoreError]]
    FutureRevision: ClassVar[type[KeyValueStoreError]]
    ResultTooLarge: ClassVar[type[KeyValueStoreError]]
    RequestReused: ClassVar[type[KeyValueStoreError]]
    TooMany: ClassVar[type[KeyValueStoreError]]
    NotLeader: ClassVar[type[KeyValueStoreError]]
    Timeout: ClassVar[type[KeyValueStoreError]]
    OutcomeUnknown: ClassVar[type[KeyValueStoreError]]
    Failed: ClassVar[type[KeyValueStoreError]]


KeyValueStoreError.NotFound = _kind(KeyValueStoreError, "NotFound", "not_found")
KeyValueStoreError.EmptyKey = _kind(KeyValueStoreError, "EmptyKey", "empty_key")
KeyValueStoreError.KeyTooLarge = _kind(KeyValueStoreError, "KeyTooLarge", "key_too_large")
KeyValueStoreError.ValueTooLarge = _kind(KeyValueStoreError, "ValueTooLarge", "value_too_large")
KeyValueStoreError.BatchTooLarge = _kind(KeyValueStoreError, "BatchTooLarge", "batch_too_large")
KeyValueStoreError.ReservedKey = _kind(KeyValueStoreError, "ReservedKey", "reserved_key")
KeyValueStoreError.InvalidRequest = _kind(KeyValueStoreError, "InvalidRequest", "invalid_request")
KeyValueStoreError.CompareFailed = _kind(
    KeyValueStoreError, "CompareFailed", "compare_failed", "The key isn't as the caller thought: no change."
)
KeyValueStoreError.LeaseNotFound = _kind(
    KeyValueStoreError, "LeaseNotFound", "lease_not_found", "Never granted, expired or revoked."
)
KeyValueStoreError.NotANumber = _kind(
    KeyValueStoreError,
    "NotANumber",
    "not_a_number",
    "The value can't be counted up: no decimal integer, or beyond 64 bits.",
)
KeyValueStoreError.Compacted = _kind(
    KeyValueStoreError, "Compacted", "compacted", "The revision asked for is no longer kept."
)
KeyValueStoreError.FutureRevision = _kind(
    KeyValueStoreError,
    "FutureRevision",
    "future_revision",
    "The revision asked for does not exist yet, as far as this node knows.",
)
KeyValueStoreError.ResultTooLarge = _kind(KeyValueStoreError, "ResultTooLarge", "result_too_large")
KeyValueStoreError.RequestReused = _kind(
    KeyValueStoreError, "RequestReused", "request_reused", "The idempotency key stood for another request."
)
KeyValueStoreError.TooMany = _kind(
    KeyValueStoreError,
    "TooMany",
    "too_many",
    "A bounded table is full (leases, idempotency keys, watchers); nothing was changed.",
)
KeyValueStoreError.NotLeader = _kind(KeyValueStoreError, "NotLeader", "not_leader")
KeyValueStoreError.Timeout = _kind(KeyValueStoreError, "Timeout", "timeout")
KeyValueStoreError.OutcomeUnknown = _kind(KeyValueStoreError, "OutcomeUnknown", "outcome_unknown")
KeyValueStoreError.Failed = _kind(KeyValueStoreError, "Failed", "failed")

_KV_KINDS: Mapping[str, type[KeyValueStoreError]] = {
    kind.code: kind for kind in KeyValueStoreError.__subclasses__()
}


def key_value_error(code: str, reason: str, revision: int = 0) -> KeyValueStoreError:
    """The kind of error that a code stands for."""
    return _KV_KINDS.get(code, KeyValueStoreError.Failed)(reason, revision=revision)
