"""Text that isn't UTF-8, wherever octets of others are decoded: the module's own error, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aspen.client.kv import read_event
from aspen.client.transport import read_json, refusal
from aspen.client.zones import _decode as decode_zone
from aspen.config.joined import JOINED_FILE, read_joined
from aspen.decoding import UNDECODABLE
from aspen.discovery import founding, join, remembered
from aspen.discovery.announcement import Sealed
from aspen.discovery.messages import decode_message
from aspen.dns import members_file
from aspen.errors import (
    AspenError,
    BackupError,
    ClientError,
    CommandError,
    ConfigError,
    GossipError,
    HttpError,
    InputError,
    RaftWireError,
    StorageError,
)
from aspen.http.kv_bodies import read_json as read_body
from aspen.node.founding import _read as read_record
from aspen.raft.messages import Entry, EntryKind, Message, MessageType, Snapshot, decode_conf_change
from aspen.raft.roster import decode_context, decode_roster
from aspen.raft.snapshots import decode_reference
from aspen.raft.wire import decode_message as decode_raft_message
from aspen.state.backup_format import Header, _decoded
from aspen.state.commands import decode_command
from aspen.state.settings import SettingDelete, SettingPut
from aspen.state.snapshot import _CHECKSUM, decode_chunk

_MARK = "not-utf-8"
_BAD = b"\xff" * len(_MARK)


def packed(value: Any) -> bytes:
    """MessagePack whose text `_MARK` isn't UTF-8."""
    return msgspec.msgpack.encode(value).replace(_MARK.encode(), _BAD)


def chunk() -> bytes:
    import zlib

    data = packed([_MARK, []])
    return _CHECKSUM.pack(zlib.crc32(data)) + data


def conf_change() -> Any:
    return decode_conf_change(Entry(kind=EntryKind.CONF_CHANGE, data=packed([_MARK])))


def reference() -> Any:
    return decode_reference(
        Message(MessageType.SNAP, snapshot=Snapshot(packed([b"", 1, [bytes(16), [], [_MEMBER]]])))
    )


_MEMBER = [1, bytes(32), [[_MARK, 1]], bytes(16)]
_ANNOUNCEMENT = [bytes(32), bytes(32), 1, [], _MARK, 0, 0, bytes(32)]
_JSON = b'{"a": "\xff"}'
_EVENT = b'{"revision": 1, "progress": "\xff", "changes": [{"type": "\xff"}]}'
_DECODERS: dict[str, tuple[Callable[[], Any], type[AspenError]]] = {
    "join request": (lambda: join.decode_request(packed(["join", _MARK, 0, []])), InputError),
    "join answer": (lambda: join.decode_answer(packed(["declined", _MARK, ""])), InputError),
    "founding": (lambda: founding.decode(packed(["here", 1, 1, [[bytes(32), [[_MARK, 1]]]]])), InputError),
    "gossip": (lambda: decode_message(packed([_MARK])), GossipError),
    "gossip, a peer's host": (
        lambda: decode_message(packed([1, [bytes(32), [[_MARK, 1]]]])),
        GossipError,
    ),
    "announcement": (lambda: Sealed(packed([_MARK, b""])), GossipError),
    "announcement, its body": (lambda: Sealed(packed([packed(_ANNOUNCEMENT), bytes(64)])), GossipError),
    "command": (lambda: decode_command(packed([60, _MARK, b""])), CommandError),
    "command, no kind": (lambda: decode_command(packed([_MARK])), CommandError),
    "chunk": (lambda: decode_chunk(chunk()), StorageError),
    "backup": (
        lambda: _decoded(packed({"aspen_version": _MARK}), Header, "header", 0),
        BackupError,
    ),
    "raft": (lambda: decode_raft_message(packed([_MARK])), RaftWireError),
    "configuration change": (conf_change, RaftWireError),
    "context": (lambda: decode_context(packed([[_MEMBER]])), RaftWireError),
    "roster": (lambda: decode_roster(packed([bytes(16), [], [_MEMBER]])), RaftWireError),
    "snapshot reference": (reference, RaftWireError),
    "client's answer": (lambda: read_json(_JSON, dict[str, str]), ClientError),
    "client's event": (lambda: read_event("changes", _EVENT), ClientError),
    "client's zone": (lambda: decode_zone(_JSON), ClientError),
    "HTTP body": (lambda: read_body(_JSON, dict[str, str]), HttpError),
}


@pytest.mark.parametrize("name", _DECODERS)
def test_text_that_is_not_utf8_is_the_sender_s_fault(name: str) -> None:
    decode, kind = _DECODERS[name]
    with pytest.raises(kind):
        decode()


def test_a_refusal_that_is_not_utf8_is_one_all_the_same() -> None:
    assert refusal(500, b'{"error": "\xff", "reason": ""}', writes=False).code == "http_500"


def test_files_of_a_node_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / JOINED_FILE).write_bytes(b'x = "\xff"')
    with pytest.raises(ConfigError):
        read_joined(tmp_path)
    record = tmp_path / "record"
    record.write_bytes(b'{"promised_to": "\xff"}')
    with pytest.raises(ConfigError):
        read_record(record)
    (tmp_path / remembered.FILE).write_bytes(b'{"\xff": []}')
    assert remembered.Remembered(tmp_path).read() == {}
    (tmp_path / members_file._FILE).write_bytes(packed([[1, "", [[_MARK, 1]]]]))
    assert members_file.read_nodes(tmp_path) == ()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\xc1", msgspec.DecodeError),
        (b"\xa1\xff", UnicodeDecodeError),
        (b"\x91" * 100_000 + b"\xc0", RecursionError),
    ],
)
def test_all_that_a_decoder_raises_has_one_name(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        msgspec.msgpack.decode(data)
    assert isinstance(caught.value, UNDECODABLE)


def test_a_newer_version_s_command_halts_whatever_its_fields_are() -> None:
    """Rejecting it here would make this member's state another than a newer one's."""
    with pytest.raises(StorageError, match="kind 250"):
        decode_command(packed([250, _MARK]))


def test_commands_with_bad_text_are_refused_alike_whether_or_not_they_are_cut() -> None:
    for command in (SettingPut(_MARK, b"x"), SettingDelete(_MARK)):
        data = packed(command)
        with pytest.raises(CommandError):
            decode_command(data)
