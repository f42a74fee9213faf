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


class ScriptError(Exception):
    """A script, or a command in it, that makes no sense."""


@dataclass(frozen=True)
class Case:
    """One command of a script."""

    path: Path
    line: int
    command: str
    arguments: tuple[tuple[str, tuple[str, ...]], ...]
    """(key, values); a bare word is a key without values."""
    input: tuple[str, ...] = ()
    expected: str = ""
    expected_at: tuple[int, int] = (0, 0)
    """Where the expected output stands: the lines [start, end) of the file, counted from 0."""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {self.command}"

    @property
    def words(self) -> list[str]:
        return [key for key, values in self.arguments if not values]

    def values(self, key: str) -> tuple[str, ...]:
        return tuple(value for name, values in self.arguments if name == key for value in values)

    def value(self, key: str, default: str = "") -> str:
        values = self.values(key)
        return values[0] if values else default

    def flag(self, key: str) -> bool:
        return {"": False, "true": True, "false": False}[self.value(key)]

    def numbers(self) -> list[int]:
        """The bare words: node ids, mostly."""
        return [int(word) for word in self.words]


@dataclass
class _Reader:
    path: Path
    lines: list[str]
    at: int = 0
    cases: list[Case] = field(default_factory=list)

    def read(self) -> list[Case]:
        while self.at < len(self.lines):
            line = self.lines[self.at].strip()
            if not line or line.startswith("#"):
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
        command, _, rest = head.strip().partition(" ")
        arguments = tuple(self._arguments(rest))
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

    @staticmethod
    def _arguments(text: str) -> list[tuple[str, tuple[str, ...]]]:
        found = []
        for match in _ARGUMENT.finditer(text):
            if match["list"] is not None:
                values = tuple(value.strip() for value in match["list"].split(",") if value.strip())
            elif match["value"] is not None:
                values = (match["value"],)
            else:
                values = ()
            found.append((match["key"], values))
        return found

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
