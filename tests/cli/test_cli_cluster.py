"""`aspen cluster …`: what it asks of a node, what it shows, and its exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from aspen.cli import check
from aspen.cli.common import exit_code, print_table
from aspen.errors import JoinError
from aspen.identity import Identity
from aspen.limits import CONTROL_MS

Aspen = Callable[..., Result]
IDENTITY = Identity.from_seed(b"\2" * 32)
KEY = IDENTITY.endpoint_id.hex()
FOUR = f"4@{IDENTITY.z32}@192.0.2.4:7300"
MEMBER = {"node_id": 4, "endpoint_id": KEY, "addresses": ["192.0.2.4:7300"]}


@pytest.mark.parametrize(
    ("arguments", "action", "body"),
    [
        (["init"], "init", {"members": []}),
        (["init", "--member", FOUR], "init", {"members": [MEMBER]}),
        (["add-learner", FOUR], "add-learner", {**MEMBER, "timeout_ms": CONTROL_MS}),
        (
            ["add-learner", f"4@{KEY}@[2001:db8::4]:7300", "--timeout", "1.5"],
            "add-learner",
            {**MEMBER, "addresses": ["[2001:db8::4]:7300"], "timeout_ms": 1_500},
        ),
        (["promote", "4"], "promote", {"node_id": 4, "timeout_ms": CONTROL_MS}),
        (["remove", "4", "--timeout", "0"], "remove", {"node_id": 4, "timeout_ms": 0}),
        (
            ["change-membership", "1", "2", "4"],
            "change-membership",
            {"members": [1, 2, 4], "timeout_ms": CONTROL_MS},
        ),
        (["transfer-leader", "2"], "transfer-leader", {"node_id": 2, "timeout_ms": CONTROL_MS}),
    ],
)
def test_changes_reach_the_node_and_its_status_is_shown(
    arguments: list[str], action: str, body: Any, aspen: Aspen, node: Any
) -> None:
    result = aspen("cluster", *arguments, "--addr", node.url)
    assert result.exit_code == 0, result.stderr
    assert node.changes == [(action, body)]
    assert "leader is node 1" in result.stdout
    assert "voter, leader" in result.stdout
    as_json = json.loads(aspen("cluster", *arguments, "--json", "--addr", node.url).stdout)
    assert [member["node_id"] for member in as_json["members"]] == [1, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["add-learner"],
        ["add-learner", "4"],
        ["add-learner", "four@key"],
        ["add-learner", "4@not-a-key@h:1"],
        ["init", "--member", "4@"],
        ["promote", "0"],
        ["promote", "one"],
        ["promote"],
        ["change-membership"],
        ["remove", "1", "--timeout", "-1"],
    ],
)
def test_wrong_usage_changes_nothing(arguments: list[str], aspen: Aspen, node: Any) -> None:
    assert aspen("cluster", *arguments, "--addr", node.url).exit_code == 2
    assert node.changes == []


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "invalid_request", 1),
        (409, "not_initialized", 1),
        (409, "failed", 1),
        (503, "timeout", 4),
        (503, "not_leader", 4),
        (503, "outcome_unknown", 5),
        (500, "internal", 5),
        (0, "", 5),
    ],
)
def test_exit_codes_say_whether_it_was_changed(
    status: int, code: str, exit_code: int, aspen: Aspen, node: Any
) -> None:
    node.problem = (status, {"error": code, "reason": "so it is"} if status else "")
    result = aspen("cluster", "promote", "4", "--addr", node.url)
    assert result.exit_code == exit_code
    assert result.stdout == ""


def test_snapshot(aspen: Aspen, node: Any) -> None:
    assert "from 39 on" in aspen("cluster", "snapshot", "--addr", node.url).stdout
    assert json.loads(aspen("cluster", "snapshot", "--json", "--addr", node.url).stdout)["first_index"] == 39


def test_an_empty_ticket_is_told_to_be_one(aspen: Aspen) -> None:
    told = aspen("cluster", "join", "")
    assert told.exit_code == 2
    assert "the ticket is empty" in told.stderr


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_an_endpoint_id_is_whole_in_any_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    key = Identity.from_seed(b"\1" * 32).z32
    print_table(None, ("node", "endpoint id", "of it"), [("1", key, "a " * 20)] * 2, whole="endpoint id")
    assert capsys.readouterr().out.count(key) == 2


@pytest.mark.parametrize(
    ("states", "exit_code"),
    [
        (["alike", "alike"], 0),
        (["alike", "differs", "silent"], 1),
        (["alike", "silent"], 4),
    ],
)
def test_check_tells_who_differs(
    states: list[str], exit_code: int, aspen: Aspen, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "CHECKPOINT_LOOK_MS", 50)
    monkeypatch.setattr(check, "CHECKPOINT_UNREACHED_MS", 90)
    members = [
        {
            "node_id": n,
            "state": state,
            "hash": None if state == "silent" else f"{n:064x}",
            "reached": state != "silent",
        }
        for n, state in enumerate(states, 1)
    ]
    node.check = {"index": 77, "alike": set(states) == {"alike"}, "members": members}
    result = aspen("cluster", "check", "--addr", node.url)
    assert result.exit_code == exit_code
    assert "index 77" in result.stdout
    for state in states:
        assert state in result.stdout
    as_json = aspen("cluster", "check", "--timeout", "2", "--json", "--addr", node.url)
    assert as_json.exit_code == exit_code
    assert json.loads(as_json.stdout) == node.check
    bodies = [body for _, body in node.changes]
    assert max(body["timeout_ms"] for body in bodies) == 50
    if "silent" in states:  # it is asked for again for a moment, and who has answered is told
        assert {name: body[name] for body in bodies for name in body if name != "timeout_ms"} == {"index": 77}
        assert "node 1 has hashed its state" in result.stderr
        assert f"waiting for node {len(states)} (not reached)" in result.stderr
    else:
        assert len(bodies) == 2
        assert result.stderr == ""


@pytest.mark.parametrize(
    ("code", "exit_"),
    [
        ("malformed", 2),
        ("forged", 1),
        ("expired", 1),
        ("not_yet", 1),
        ("foreign", 1),
        ("node_id_taken", 1),
        ("removed", 1),
        ("wrong_cookie", 1),
        ("full", 1),
        ("unreachable", 4),
    ],
)
def test_a_node_that_is_not_let_in_ends_with_a_code(code: str, exit_: int) -> None:
    assert exit_code(JoinError(code, "")) == exit_
