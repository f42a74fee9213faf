from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

_spec = importlib.util.spec_from_file_location("fake_node", Path(__file__).with_name("fake_node.py"))
assert _spec is not None
assert _spec.loader is not None
fake_node = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_node)


@pytest.fixture(scope="session")
def _running_node() -> Iterator[Any]:
    with fake_node.FakeNode() as running:
        yield running


@pytest.fixture
def node(_running_node: Any) -> Any:
    """A node's HTTP interface, empty and in good health."""
    _running_node.reset()
    return _running_node


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ASPEN_"):
            monkeypatch.delenv(name)


@pytest.fixture
def aspen() -> Callable[..., Result]:
    """Run `aspen` with these arguments, in this process."""
    from aspen.cli.main import app

    def run(*arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, prog_name="aspen")

    return run
