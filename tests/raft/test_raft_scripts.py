"""Transcripts: our own always, the reference's where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from raft_scripts.datadriven import ScriptError, read_script
from raft_scripts.runner import normalise, run_script, scripts_in

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
