"""`aspen zone key`, against a stand-in for a node."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

Aspen = Callable[..., Result]


@pytest.fixture(autouse=True)
def _addr(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASPEN_ADDR", node.url)


def test_a_key_made_up_is_printed_as_isc_tools_read_it(aspen: Aspen, node: Any) -> None:
    added = aspen("zone", "key", "add", "transfer.example.", "--algorithm", "hmac-sha512")
    assert added.exit_code == 0, added.output
    assert added.stdout == (
        'key "transfer.example." {\n\talgorithm hmac-sha512;\n\tsecret "bWFkZSB1cA==";\n};\n'
    )
    listed = aspen("zone", "key", "list").stdout
    assert "transfer.example." in listed
    assert "bWFkZSB1cA==" not in listed


def test_a_secret_comes_by_standard_input_and_is_not_printed(aspen: Aspen, node: Any) -> None:
    added = aspen("zone", "key", "add", "k", "--secret-stdin", stdin=b"c29tZSBzZWNy\nZXQ=\n")
    assert (added.exit_code, added.stdout) == (0, "added k. (hmac-sha256)\n")
    assert node.tsig["k."] == ("hmac-sha256", "c29tZSBzZWNyZXQ=")


@pytest.mark.parametrize("given", [b"", b"not base64!\n"])
def test_what_is_no_secret_is_refused_without_being_repeated(aspen: Aspen, node: Any, given: bytes) -> None:
    refused = aspen("zone", "key", "add", "k", "--secret-stdin", stdin=given)
    assert refused.exit_code == 2
    assert "not base64!" not in refused.stderr
    assert not node.tsig


def test_a_key_that_is_there_is_exchanged_only_if_asked(aspen: Aspen, node: Any) -> None:
    assert aspen("zone", "key", "add", "k").exit_code == 0
    assert aspen("zone", "key", "add", "k").exit_code == 1
    assert aspen("zone", "key", "add", "k", "--replace").exit_code == 0


def test_a_key_is_removed_once(aspen: Aspen, node: Any) -> None:
    aspen("zone", "key", "add", "k")
    assert aspen("zone", "key", "remove", "k").stdout == "removed k.\n"
    assert aspen("zone", "key", "remove", "k").exit_code == 3


def test_programs_get_json(aspen: Aspen, node: Any) -> None:
    added = json.loads(aspen("zone", "key", "add", "k", "--json").stdout)
    assert added == {"name": "k.", "algorithm": "hmac-sha256", "secret": "bWFkZSB1cA=="}
    assert json.loads(aspen("zone", "key", "list", "--json").stdout) == {
        "keys": [{"name": "k.", "algorithm": "hmac-sha256"}]
    }
    assert json.loads(aspen("zone", "key", "remove", "k", "--json").stdout) == {"name": "k."}
