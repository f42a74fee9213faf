"""What a seeded bug is, and how it is put in and taken out again.

A mutation replaces functions or methods of the core, or of the simulated node, by wrong ones. A
function is replaced wherever it is known, under whatever name it was imported: in modules, in
tables of handlers. A name that has gone from the core is an error at once: a mutation that changes
nothing would only seem to be found by nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

_PACKAGES: Final = ("aspen.raft.", "raft_sim.")


class Patch:
    """Replacements, to be undone together."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def function(self, original: Callable[..., Any], replacement: Callable[..., Any]) -> None:
        """Replace a function of a module wherever it is referred to."""
        found = 0
        for name, module in sorted(sys.modules.items()):
            if not name.startswith(_PACKAGES) or name.startswith("raft_sim.mutation"):
                continue
            for key, value in list(vars(module).items()):
                if value is original:
                    self.attribute(module, key, replacement)
                    found += 1
                elif isinstance(value, dict):
                    found += self._entries(value, original, replacement)
        if not found:
            raise LookupError(f"{original!r} is used nowhere")

    def _entries(self, table: dict[Any, Any], original: object, replacement: object) -> int:
        keys = [key for key, value in table.items() if value is original]
        table.update(dict.fromkeys(keys, replacement))
        self._undo.append(lambda: table.update(dict.fromkeys(keys, original)))
        return len(keys)

    def attribute(self, owner: Any, name: str, value: object) -> None:
        """Replace a method, property or constant."""
        original = vars(owner)[name]
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, original))

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


@dataclass(frozen=True, slots=True)
class Mutation:
    """One seeded bug. `origin` is the real bug it stands for, or the rule of Raft that it breaks."""

    name: str
    origin: str
    text: str
    put_in: Callable[[Patch], None]


MUTATIONS: Final[dict[str, Mutation]] = {}


def mutation(origin: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a function that puts a bug in; its name is the bug's, its docstring says what is wrong."""

    def register(put_in: Callable[[Patch], None]) -> Callable[[Patch], None]:
        name = put_in.__name__
        text = " ".join((put_in.__doc__ or "").split())
        MUTATIONS[name] = Mutation(name, origin, text, put_in)
        return put_in

    return register


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """With the named bug put in; the empty name is none."""
    if not name:
        yield
        return
    patch = Patch()
    try:
        MUTATIONS[name].put_in(patch)
        yield
    finally:
        patch.undo()
