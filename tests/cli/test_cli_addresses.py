"""Every command that talks to a node takes several: what one certainly did not do, the next is asked for."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from aspen.identity import Identity

Aspen = Callable[..., Result]
KEY = Identity.from_seed(b"\3" * 32)


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nobody answers, and nobody will for the while."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and never listening
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


COMMANDS = (
    ["cluster", "status"],
    ["cluster", "promote", "2"],
    ["cluster", "remove", "2"],
    ["cluster", "transfer-leader", "2"],
    ["cluster", "change-membership", "1", "2"],
    ["cluster", "add-learner", f"4@{KEY.z32}@192.0.2.4:7300"],
    ["kv", "put", "a", "1"],
    ["kv", "scan"],
    ["pkarr", "publish", "--key", "KEY", "_iroh TXT relay=https://r.example./"],
    ["zone", "key", "list"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: "-".join(words[:2]))
def test_the_next_node_is_asked_when_one_is_not_there(
    command: list[str],
    aspen: Aspen,
    node: Any,
    closed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [str(tmp_path / "key") if word == "KEY" else word for word in command]
    assert aspen(*words, "--addr", f"{closed},{node.url}").exit_code == 0
    assert aspen(*words, "--addr", closed, "--addr", node.url).exit_code == 0
    monkeypatch.setenv("ASPEN_ADDR", f"{closed}, {node.url}")
    assert aspen(*words).exit_code == 0


def test_when_nobody_answers_all_of_them_are_named(aspen: Aspen, closed: str) -> None:
    result = aspen("cluster", "status", "--json", "--addr", f"{closed},127.0.0.1:1")
    assert result.exit_code == 4
    reason = json.loads(result.stderr)["reason"]
    assert closed in reason
    assert "127.0.0.1:1" in reason


def test_a_change_of_unknown_outcome_is_not_asked_for_again(aspen: Aspen, node: Any) -> None:
    node.problem = (503, {"error": "outcome_unknown", "reason": "perhaps"})
    result = aspen("cluster", "promote", "2", "--addr", f"{node.url},{node.url}")
    assert result.exit_code == 5
    assert len(node.requests) == 1


def test_what_a_node_certainly_did_not_do_the_next_is_asked_for(aspen: Aspen, node: Any) -> None:
    node.problem = (503, {"error": "no_leader", "reason": "nobody leads"})
    result = aspen("cluster", "promote", "2", "--addr", f"{node.url},{node.url}")
    assert result.exit_code == 4
    assert len(node.requests) == 2


def test_a_refusal_is_final(aspen: Aspen, node: Any) -> None:
    node.problem = (404, {"error": "unknown_node", "reason": "node 9 is not a member"})
    result = aspen("cluster", "promote", "9", "--addr", f"{node.url},{node.url}")
    assert (result.exit_code, len(node.requests)) == (3, 1)
    assert "node 9 is not a member" in result.stderr
