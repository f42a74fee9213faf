"""Looks into ready-made answers as DNS does."""

from __future__ import annotations

from aspen.dns.name import name_from_text
from aspen.dns.ready import Outcome, find_answer


def answer_of(answers: bytes, name: str, rrtype: int = 1) -> bytes:
    """The records of an RRset under the packet's key; nothing if there are none."""
    relative = name_from_text(name)[:-1] if name else b""
    found = find_answer(answers, relative, rrtype)
    return found.records if found.outcome is Outcome.SUCCESS else b""
