"""`aspen pkarr show`: the public half of a key, or a packet field by field."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from aspen.cli.common import print_json, printable
from aspen.errors import InputError

if TYPE_CHECKING:
    from aspen.identity import Identity
    from aspen.pkarr.explain import Field

_KEY_FILE_BYTES = 64
_READ_BYTES = 65_536
"""Of a file that is shown; no packet is so long."""


def show_file(file: Path, key: str | None, as_json: bool) -> Identity | None:
    """The identity in a key file; None if it was a packet, which has been printed.

    Raises `InputError` for what can't be read, `typer.Exit` if something is wrong with a packet.
    """
    from aspen.identity import Identity, parse_endpoint_id
    from aspen.pkarr.explain import explain

    data = _read(file)
    if key is None and len(data.strip()) <= _KEY_FILE_BYTES and str(file) != "-":
        return Identity.load(file)
    public_key = parse_endpoint_id(key) if key is not None else None
    fields = explain(data, public_key)
    problems = [field for field in fields if field.problem]
    if as_json:
        print_json({"bytes": len(data), "valid": not problems, "fields": [_as_json(each) for each in fields]})
    else:
        _print(fields)
        if problems:
            print(f"{len(problems)} of {len(fields)} fields are wrong", file=sys.stderr)
    if problems:
        raise typer.Exit(1)
    return None


def _read(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read(_READ_BYTES)
    try:
        with file.open("rb") as opened:
            return opened.read(_READ_BYTES)
    except OSError as error:
        raise InputError(f"can't read {file}: {error.strerror or error}") from None


def _print(fields: list[Field]) -> None:
    for field in fields:
        where = f"{field.offset:>5} {field.size:>5}  {field.name}"
        print(f"{where}: {printable(_readable(field))}")
        if field.problem:
            print(f"{'':>11}  ↑ {printable(field.problem)}")


def _readable(field: Field) -> str:
    if field.name != "timestamp":
        return field.value
    seconds = int(field.value.split()[0]) // 1_000_000
    try:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return field.value
    return f"{field.value} ({when})"


def _as_json(field: Field) -> dict[str, object]:
    said: dict[str, object] = field._asdict()
    return {name: value for name, value in said.items() if name != "problem" or value}
