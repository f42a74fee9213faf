"""docs/raft.md names tests, scripts and mutations: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "scripts"
DOCUMENT = (TESTS.parent / "docs" / "raft.md").read_text("utf-8")
BUGS = DOCUMENT.split("\n## Real bugs of real systems\n")[1]
ROW = re.compile(r"^\| (?!what |bug |script |-)(.+) \|$", re.MULTILINE)


def defined(pattern: str, folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        found |= set(re.findall(pattern, path.read_text("utf-8"), re.MULTILINE))
    return found


def test_every_test_it_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT))
    assert len(named) > 100
    assert named <= defined(r"^(?:async )?def (test_\w+)\(", TESTS)


def test_it_names_every_script_and_no_other() -> None:
    named = set(re.findall(r"`(\w+\.txt)`", DOCUMENT))
    assert named == {path.name for path in SCRIPTS.iterdir()}


def test_every_name_of_the_checklist_has_a_test_or_a_script() -> None:
    checklist = DOCUMENT.split("\n## What is tested, by name\n")[1]
    for row in ROW.findall(checklist):
        assert re.search(r"`(test_\w+|\w+\.txt)`|the same tests", row), row


def test_every_real_bug_has_a_mutation() -> None:
    named = [re.findall(r"`(\w+)`", row)[-1] for row in ROW.findall(BUGS)]
    assert len(named) == 15
    mutations = TESTS / "sim"
    if not mutations.is_dir():
        pytest.skip("the simulator is not here")
    assert set(named) <= defined(r"^def (\w+)\(patch", mutations)
