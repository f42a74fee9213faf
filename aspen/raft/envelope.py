"""What stands in a normal log entry: a request id and a time stamp before the command.

::

    request id (16) ‖ proposed_at ms u64 BE ‖ command

The request id (8 random bytes of a process's incarnation, then a counter) lets the node that
proposed recognise its own entry when it is applied. The leader stamps the time, over whatever
a forwarding follower put there. An entry without data is a leader's no-op (Raft §8).

A command that begins with `MARKER` is not for the state machine: it changes nothing, and is handed
back to its proposer as it stands (see `admission`).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from aspen.errors import invariant

MARKER: Final = b"\xc1"
"""The one byte that no MessagePack value begins with, so no command does."""

_HEAD: Final = struct.Struct(">16sQ")
_TIME: Final = struct.Struct(">Q")
_TIME_OFFSET: Final = 16


class Envelope(NamedTuple):
    request_id: bytes
    proposed_at_ms: int
    command: bytes


def seal(request_id: bytes, proposed_at_ms: int, command: bytes) -> bytes:
    return _HEAD.pack(request_id, proposed_at_ms) + command


def open_envelope(data: bytes) -> Envelope:
    """Split a committed entry's data. What is committed was sealed by a member, so anything
    else is a bug or a corrupt log."""
    invariant(len(data) >= _HEAD.size, "a committed entry is shorter than its envelope")
    request_id, proposed_at_ms = _HEAD.unpack_from(data)
    return Envelope(request_id, proposed_at_ms, data[_HEAD.size :])


def restamp(data: bytes, proposed_at_ms: int) -> bytes:
    """The same entry data with the leader's time; data too short to be an envelope is refused
    by the caller before this."""
    invariant(len(data) >= _HEAD.size, "a proposal is shorter than its envelope")
    return data[:_TIME_OFFSET] + _TIME.pack(proposed_at_ms) + data[_HEAD.size :]


HEAD_BYTES: Final = _HEAD.size
