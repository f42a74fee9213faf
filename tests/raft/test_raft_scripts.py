"""Transcripts: our own always, the reference's where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from raft_scripts import describe
from raft_scripts.datadriven import ScriptError, read_script
from raft_scripts.interaction import Interaction
from raft_scripts.runner import normalise, run_script, scripts_in
from run_scripts import main

from aspen.raft.messages import Message, MessageType
from aspen.raft.reads import ReadState

OWN = Path(__file__).parent / "scripts"
REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "raft"


@pytest.mark.parametrize("path", scripts_in(OWN), ids=lambda path: path.stem)
def test_own_script(path: Path) -> None:
    tally = run_script(path)
    assert tally.cases
    assert not tally.t2, "\n".join(map(str, tally.t2))


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference's scripts are not here")
@pytest.mark.parametrize("folder", ["quorum", "confchange", "interaction"])
def test_reference_scripts(folder: str) -> None:
    scripts = scripts_in(REFERENCE / folder)
    assert scripts
    for path in scripts:
        tally = run_script(path)
        assert not tally.t1, "\n".join(map(str, tally.t1))
        assert not tally.t2, "\n".join(map(str, tally.t2))


def test_a_script_is_read(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text(
        "# why\nadd-nodes 3 voters=(1, 2,3) index=10\ninput\n----\nok\n\n"
        "last\n----\n----\na\n\nb\n----\n----\n"
    )
    first, second = read_script(path)
    assert (first.command, first.arguments.words) == ("add-nodes", ["3"])
    assert first.arguments.values("voters") == ("1", "2", "3")
    assert (first.input, first.expected, first.line) == (("input",), "ok", 2)
    assert second.expected == "a\n\nb"


def test_a_script_that_breaks_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.txt"
    path.write_text("campaign 1\n")
    with pytest.raises(ScriptError, match="ends within a command"):
        read_script(path)


def test_log_lines_do_not_count() -> None:
    assert normalise("INFO one\n  DEBUG two\nReady\n") == "Ready"
    assert normalise("WARN only") == normalise("ok (quiet)") == "ok"


def test_a_difference_is_found_in_its_tier(tmp_path: Path) -> None:
    path = tmp_path / "differs.txt"
    path.write_text(
        "add-nodes 1 voters=(1) index=2\n----\nok\n\n"
        "raft-state\n----\n1: StateLeader (Voter) Term:9 Lead:1\n\n"
        "stabilize\n----\nsomething\n"
    )
    tally = run_script(path)
    assert str(tally) == "T1 0/1 T2 1/3"


def output(tmp_path: Path, *commands: str) -> list[str]:
    """What each command prints."""
    path = tmp_path / "commands.txt"
    path.write_text("".join(f"{command}\n----\n\n" for command in commands))
    script = Interaction()
    return [script.handle(case).rstrip("\n") for case in read_script(path)]


def test_lines_of_input_are_commands_too(tmp_path: Path) -> None:
    printed = output(
        tmp_path,
        "log-level none\nadd-nodes 2 voters=(1 2) index=3\ncampaign 1\nstabilize",
        "raft-state",
        "log-level info\nraft-state\npropose 2 x\nno-such-command\nprocess-append-thread 1",
    )
    assert printed[:2] == ["ok", "ok"]
    assert printed[2].splitlines() == [
        "1: StateLeader (Voter) Term:1 Lead:1",
        "2: StateFollower (Voter) Term:1 Lead:1",
        "unknown commandno append work to perform",
    ]


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("add-nodes 1 voters=(1)", "index must be specified as > 1 due to bootstrap"),
        ("add-nodes 1 read-only=maybe", 'invalid read-only option "maybe"'),
        ("log-level loud", "log levels must be either of [DEBUG INFO WARN ERROR FATAL NONE]"),
        ("propose 1 x", "raft proposal dropped"),
        ("propose-conf-change 1 v1=1\nv1 v2", "v1 conf change can only have one operation and no transition"),
        ("propose-conf-change 1 transition=abrupt\nv1", "unknown transition abrupt"),
        ("propose-conf-change 1\nx3", "unknown input: x3"),
        ("compact 1 2", "requested index is unavailable due to compaction"),
        ("deliver-msgs 1", "no messages"),
        ("process-ready 1", "<empty Ready>"),
        ("raft-log 1", "log is empty: first index=4, last index=3"),
        ("status 1", "ok"),
        ("reboot 1", "unknown command"),
        ("restart 1", "HardState Term:0 Commit:3 Applied:3 Log:1/3"),
    ],
)
def test_what_a_command_says_when_there_is_little_to_say(tmp_path: Path, command: str, printed: str) -> None:
    assert output(tmp_path, "add-nodes 1 voters=(1) index=3", command) == ["ok", printed]


def test_an_answer_from_a_stranger_is_refused_aloud(tmp_path: Path) -> None:
    printed = output(
        tmp_path,
        "add-nodes 1 voters=(1) index=3",
        "add-nodes 1 voters=(1,2) index=3",
        "log-level none\ncampaign 1\nstabilize\nlog-level info",
        "send-snapshot 1 2",
        "stabilize 2",
        "deliver-msgs 1",
    )
    assert printed[3].startswith(
        "1->2 MsgSnap Term:1 Log:0/0\n  Snapshot: Index:4 Term:1 ConfState:Voters:[1] "
    )
    assert printed[5].splitlines() == [
        "2->1 MsgAppResp Term:1 Log:0/3",
        "raft: cannot step as peer not found",
    ]


def test_text_is_quoted_as_go_does() -> None:
    assert describe.quoted('a"b\\ é\n\t\x01\x7f\u200b'.encode()) == '"a\\"b\\\\ é\\n\\t\\x01\\x7f\\u200b"'
    assert describe.quoted(b"\xff\x00") == '"\\xff\\x00"'
    assert describe.message(Message(MessageType.BEAT, to=10, sender=255)) == "ff->a MsgBeat Term:0 Log:0/0"
    assert describe.read_states([ReadState(7, b"x"), ReadState(8, b"")]) == 'ReadStates [{7 "x"} {8 ""}]'


def test_the_tally_is_the_last_line_and_differences_are_diffs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "good").write_text(
        "committed cfg=(1) idx=(7)\n----\n     idx\n>      7    (id=1)\n7\n"
    )
    (tmp_path / "bad.txt").write_text("simple\nv1\n----\nvoters=(2)\n1: StateProbe match=0 next=1\n")
    (tmp_path / "broken.txt").write_text("campaign 1\n")
    (tmp_path / "README.md").write_text("no script")
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "scripts: T1 0/0 T2 1/3"
    assert "-voters=(2)" in lines
    assert "+voters=(1)" in lines
    assert main([str(tmp_path / "inner")]) == 0
    assert capsys.readouterr().out.endswith("scripts: T1 0/0 T2 1/1\n")
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
