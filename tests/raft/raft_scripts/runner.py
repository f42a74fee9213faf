"""Runs scripts and counts, in two tiers, what they agree on.

T1 is what a cluster has come to: `raft-state`, `raft-log`, and match and learner in `status`.
T2 is every line of every command. Log lines are left out of both, and so are the other lines of
a command that runs with logging off. A script goes on after a difference: its state is what
counts, not its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Protocol

from raft_scripts.datadriven import Arguments, Case, ScriptError, read_script
from raft_scripts.interaction import Interaction
from raft_scripts.pure import ConfChangeScript, QuorumScript

_LOG_LINE = re.compile(r"^\s*(DEBUG|INFO|WARN|ERROR) ")
_QUIET = "ok (quiet)"
_CHECKPOINTS = frozenset({"raft-state", "raft-log", "status"})
_MATCH = re.compile(r"^(\d+): \w+ (match=\d+) next=\d+( learner)?")
_QUORUM_COMMANDS = frozenset({"committed", "vote"})
_CHANGE_COMMANDS = frozenset({"simple", "enter-joint", "leave-joint"})


class Script(Protocol):
    def handle(self, case: Case) -> str: ...


@dataclass(frozen=True)
class Difference:
    """A case whose transcript is not ours."""

    case: Case
    expected: str
    actual: str

    def __str__(self) -> str:
        lines = unified_diff(
            self.expected.split("\n"), self.actual.split("\n"), "expected", "ours", n=10**6, lineterm=""
        )
        return "\n".join([f"{self.case.path}:{self.case.line} {self.case.command}", *lines])


@dataclass
class Tally:
    """Cases run, and where they differ in either tier."""

    cases: int = 0
    checkpoints: int = 0
    t1: list[Difference] = field(default_factory=list)
    t2: list[Difference] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.cases += other.cases
        self.checkpoints += other.checkpoints
        self.t1 += other.t1
        self.t2 += other.t2

    def __str__(self) -> str:
        t1 = f"T1 {self.checkpoints - len(self.t1)}/{self.checkpoints}"
        return f"{t1} T2 {self.cases - len(self.t2)}/{self.cases}"


def normalise(text: str) -> str:
    """A transcript without log lines; `ok` if nothing is left of it."""
    kept = [line.rstrip() for line in text.split("\n") if not _LOG_LINE.match(line)]
    rest = "\n".join(kept).strip("\n")
    return "ok" if rest in ("", _QUIET) else rest


def checkpoint(case: Case, text: str) -> str:
    """What T1 compares of a checkpoint's output."""
    if case.command != "status":
        return text
    return "\n".join("".join(match.groups("")) for match in map(_MATCH.match, text.split("\n")) if match)


def environment(cases: Iterable[Case]) -> Script:
    """The environment that a script is written for, by its commands."""
    commands = {case.command for case in cases}
    if commands <= _QUORUM_COMMANDS:
        return QuorumScript()
    return ConfChangeScript() if commands <= _CHANGE_COMMANDS else Interaction()


def run_script(path: Path) -> Tally:
    """Run one script to its end, whatever happens on the way."""
    tally = Tally()
    try:
        cases = read_script(path)
    except (ScriptError, UnicodeDecodeError) as error:
        broken = Case(path, 1, "(the script itself)", Arguments())
        tally.cases = 1
        tally.t2.append(Difference(broken, "a script", str(error)))
        return tally
    script = environment(cases)
    for case in cases:
        try:
            actual = normalise(script.handle(case))
        except Exception as error:
            # Whatever it is, a violated invariant of the core too, it is this case that shows it.
            actual = f"{type(error).__name__}: {error}"
        expected = normalise(case.expected)
        tally.cases += 1
        if actual != expected:
            tally.t2.append(Difference(case, expected, actual))
        if case.command in _CHECKPOINTS:
            tally.checkpoints += 1
            ours, theirs = checkpoint(case, actual), checkpoint(case, expected)
            if ours != theirs:
                tally.t1.append(Difference(case, theirs, ours))
    return tally


def rewrite_script(path: Path) -> None:
    """Put down what each command prints now as what is expected. To be read before it is committed!"""
    cases = read_script(path)
    script = environment(cases)
    lines = path.read_text(encoding="utf-8").splitlines()
    outputs = [normalise(script.handle(case)).split("\n") for case in cases]
    for case, output in reversed(list(zip(cases, outputs, strict=True))):
        begin, end = case.expected_at
        lines[begin:end] = output
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def scripts_in(folder: Path) -> list[Path]:
    """The scripts in a folder and below it, by name: `*.txt`, and files without a suffix."""
    found = (path for path in folder.rglob("*") if path.suffix in (".txt", "") and path.is_file())
    return sorted(path for path in found if not path.name.startswith(("README", ".")))
