"""`aspen cluster backup` of what is no backup, or breaks off: what stood under that name is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from aspen.cli import start_line
from aspen.cli.common import Exit

Aspen = Callable[..., Result]


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        ((200, "no backup at all"), Exit.FAILED, "not a backup of Aspen"),
        ((200, ""), Exit.FAILED, "too short"),
        ((0, ""), Exit.UNAVAILABLE, "no answer"),
        (
            (503, {"error": "overloaded", "reason": "one is being made"}),
            Exit.UNAVAILABLE,
            "one is being made",
        ),
        ((409, {"error": "not_initialized", "reason": "no cluster"}), Exit.FAILED, "no cluster"),
    ],
)
def test_a_backup_that_is_not_whole_does_not_replace_the_last(
    aspen: Aspen, node: Any, tmp_path: Path, answer: tuple[int, Any], code: Exit, reason: str
) -> None:
    node.problem = answer
    file = tmp_path / "aspen.backup"
    file.write_bytes(b"yesterday's")
    done = aspen("cluster", "backup", str(file), "--addr", node.url)
    assert done.exit_code == code, done.stderr
    assert reason in done.stderr
    assert file.read_bytes() == b"yesterday's"
    assert [path.name for path in tmp_path.iterdir()] == ["aspen.backup"]


def test_the_line_that_starts_a_restored_node_fits_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = {5300, 5301, 8080}
    monkeypatch.setattr(start_line, "_can_bind", lambda host, number, _kind: number not in taken)
    line = start_line.start_line(4, tmp_path / "a b", [("127.0.0.1", 7304)])
    assert line == (
        f"aspen node run --node-id 4 --data-dir '{tmp_path}/a b' --host 127.0.0.1 --quic-port 7304 "
        "--dns-port 5302 --http-addr 127.0.0.1:8081"
    )
    monkeypatch.setattr(start_line, "_can_bind", lambda host, *_: host != "192.0.2.1")
    behind_nat = start_line.start_line(1, Path("d"), [("192.0.2.1", 7300)])
    assert behind_nat == "aspen node run --node-id 1 --data-dir d"
