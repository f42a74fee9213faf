"""The grammar of the scripts: commands with arguments and input, and the output expected of each.

    # a comment
    command arg key=value key=(v1,v2)
    input lines
    ----
    expected output, up to a blank line

Expected output that holds blank lines stands between doubled `----` lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_ARGUMENT = re.compile(r"(?P<key>[^\s=]+)(?:=(?:\((?P<list>[^)]*)\)|(?P<value>\S*)))?")
_SEPARATOR = "----"
_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"", "0", "f", "false"})


class ScriptError(Exception):
    """A script, or a command in it, that makes no sense."""


class CommandError(Exception):
    """A command that fails in a way the script may expect: the text is its output."""


@dataclass(frozen=True)
class Arguments:
    """(key, values) in order; a bare word is a key without values."""

    items: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def words(self) -> list[str]:
        return [key for key, values in self.items if not values]

    def values(self, key: str) -> tuple[str, ...]:
        return tuple(value for name, values in self.items if name == key for value in values)

    def value(self, key: str, default: str = "") -> str:
        values = self.values(key)
        return values[0] if values else default

    def flag(self, key: str) -> bool:
        value = self.value(key).lower()
        if value not in _TRUE | _FALSE:
            raise ScriptError(f"{key}={value} is neither true nor false")
        return value in _TRUE

    def numbers(self) -> list[int]:
        """The bare words: node ids, mostly."""
        return [int(word) for word in self.words]


def parse_command(line: str) -> tuple[str, Arguments]:
    """A command line's command and arguments."""
    command, _, rest = line.strip().partition(" ")
    found = []
    for match in _ARGUMENT.finditer(rest):
        values: tuple[str, ...] = ()
        if match["list"] is not None:
            values = tuple(match["list"].replace(",", " ").split())
        elif match["value"] is not None:
            values = (match["value"],)
        found.append((match["key"], values))
    return command, Arguments(tuple(found))


@dataclass(frozen=True)
class Case:
    """One command of a script."""

    path: Path
    line: int
    command: str
    arguments: Arguments
    input: tuple[str, ...] = ()
    expected: str = ""
    expected_at: tuple[int, int] = (0, 0)
    """Where the expected output stands: the lines [start, end) of the file, counted from 0."""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {self.command}"


@dataclass
class _Reader:
    path: Path
    lines: list[str]
    at: int = 0
    cases: list[Case] = field(default_factory=list)

    def read(self) -> list[Case]:
        while self.at < len(self.lines):
            line = self.lines[self.at].strip()
            # `subtest` only names what follows.
            if not line or line.startswith("#") or line.split()[0] == "subtest":
                self.at += 1
            else:
                self._case()
        return self.cases

    def _case(self) -> None:
        start = self.at
        head = self._take()
        while head.endswith("\\"):
            head = head[:-1] + self._take()
        inputs: list[str] = []
        while (line := self._take()) != _SEPARATOR:
            inputs.append(line)
        command, arguments = parse_command(head)
        begin = self.at
        expected = self._expected()
        end = self.at - 1 if self.lines[self.at - 1 : self.at] == [""] else self.at
        self.cases.append(
            Case(self.path, start + 1, command, arguments, tuple(inputs), "\n".join(expected), (begin, end))
        )

    def _take(self) -> str:
        if self.at == len(self.lines):
            raise ScriptError(f"{self.path}: ends within a command")
        self.at += 1
        return self.lines[self.at - 1].rstrip()

    def _expected(self) -> list[str]:
        doubled = self.at < len(self.lines) and self.lines[self.at].rstrip() == _SEPARATOR
        end = [_SEPARATOR, _SEPARATOR] if doubled else [""]
        if doubled:
            self.at += 1
        found: list[str] = []
        while self.at < len(self.lines):
            if [line.rstrip() for line in self.lines[self.at : self.at + len(end)]] == end:
                self.at += len(end)
                break
            found.append(self._take())
        return found


def read_script(path: Path) -> list[Case]:
    """The cases of a script, in order. Raises `ScriptError`."""
    return _Reader(path, path.read_text(encoding="utf-8").splitlines()).read()
