"""Whatever somebody types, a command ends with a line that says what is wrong, never in a traceback."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from aspen.cli import main, peers

Aspen = Callable[..., Result]
NO_TEXT = "a\udcffb"
"""As Python has an argument with the octet 255 in it."""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cluster", "backup", ""), "not the name of a file"),
        (("cluster", "backup", "/"), "not the name of a file"),
        (("dig", "x", "--server", "host:99999"), "host:99999"),
        (("dig", "x", "--server", ""), "not a host"),
        (("dig", "x", "--server", f"{'a' * 64}.test"), "not the name of a host"),
        (("zone", "create", NO_TEXT, "--ns", "ns1"), "UTF-8"),
        (("zone", "create", "a.test", "--ns", NO_TEXT), "UTF-8"),
        (("zone", "create", "a.test", "--ns", "ns1", "--record", f"{NO_TEXT} A 192.0.2.1"), "UTF-8"),
        (("zone", "show", NO_TEXT), "UTF-8"),
        (("zone", "key", "remove", NO_TEXT), "UTF-8"),
        (("record", "get", NO_TEXT), "UTF-8"),
        (("record", "set", "www", "TXT", NO_TEXT, "--zone", "a.test"), "UTF-8"),
        (("kv", "get", "k", "--token", "a\nb"), "the token"),
        (("kv", "get", "k", "--token", NO_TEXT), "the token"),
        (("kv", "put", "k", "v", "--once", "a\nb"), "Idempotency-Key"),
    ],
)
def test_input_that_cannot_be_meant(arguments: tuple[str, ...], says: str, aspen: Aspen, node: Any) -> None:
    to = () if arguments[0] == "dig" else ("--addr", node.url)
    told = aspen(*arguments, *to)
    assert isinstance(told.exception, SystemExit), told.exception
    assert told.exit_code in (2, 4)
    assert told.stderr.startswith(("aspen: ", "Usage: "))
    assert says in told.stderr


def test_what_nobody_has_foreseen_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("token=abcdef")

    monkeypatch.setattr(peers, "talk", broken)
    monkeypatch.setattr("sys.argv", ["aspen", "peers"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "abcdef" not in said
    assert "unexpected ZeroDivisionError" in said
    monkeypatch.setenv(main.TRACEBACK_VARIABLE, "1")
    with pytest.raises(ZeroDivisionError):
        main.main()


def test_what_is_no_answer_of_a_node_may_be_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "talk", lambda *_: {})
    monkeypatch.setattr("sys.argv", ["aspen", "peers"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert "unless what was asked is no Aspen node" in capsys.readouterr().err


def test_results_that_can_not_be_written_are_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(peers, "talk", full)
    monkeypatch.setattr("sys.argv", ["aspen", "peers"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "aspen: input or output: No space left on device\n"
