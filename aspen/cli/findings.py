"""What `aspen doctor` finds: each thing it looked at, how that is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["ok", "warning", "problem", "skipped"]
MARKS: Final[dict[Level, str]] = {"ok": "✓", "warning": "!", "problem": "✗", "skipped": "–"}


@dataclass(frozen=True, slots=True)
class Finding:
    topic: str
    level: Level
    says: str
    do: str = ""
    """What to do; empty if nothing is to be done."""


def ok(topic: str, says: str) -> Finding:
    return Finding(topic, "ok", says)


def warning(topic: str, says: str, do: str) -> Finding:
    return Finding(topic, "warning", says, do)


def problem(topic: str, says: str, do: str) -> Finding:
    return Finding(topic, "problem", says, do)


def skipped(topic: str, why: str) -> Finding:
    return Finding(topic, "skipped", why)
