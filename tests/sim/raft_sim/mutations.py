"""Seeded bugs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """With the named bug put in; the empty name is none."""
    yield
