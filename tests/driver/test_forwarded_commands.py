"""What other members forward: a leader lets no command into the log that no member could take."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from in_process import Member, cluster, leader_of, put

from aspen.errors import CommandError
from aspen.services import proposer as proposer_module
from aspen.state.kv_commands import KvSet


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x93\x3c\xa1\xff\xc4\x01x", id="text that is not UTF-8"),
        pytest.param(msgspec.msgpack.encode([79, b"x"]), id="a kind unknown here, at which members halt"),
        pytest.param(b"nonsense", id="no command at all"),
        pytest.param(msgspec.msgpack.encode([60, "n" * 100_000, b""]), id="over a limit"),
    ],
)
async def test_a_leader_refuses_a_forwarded_command_that_nobody_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    async with cluster(tmp_path) as members:
        leader = leader_of(members)
        follower: Member = next(member for member in members.values() if member is not leader)
        with monkeypatch.context() as patch:
            # A follower with a bug, or of another version.
            patch.setattr(proposer_module, "encode_command", lambda command: data)
            with pytest.raises(CommandError, match="the leader refused the command"):
                await follower.proposer.propose(KvSet(((b"k", b"v"),)))
        assert not any(member.failures for member in members.values())
        await put(follower, b"k", b"v")
