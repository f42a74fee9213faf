"""`aspen cluster backup` of what is no backup, or breaks off: what stood under that name is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

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
