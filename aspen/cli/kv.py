"""`aspen kv`: the replicated key-value store. Keys and values are bytes; `-` is standard input."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aspen.cli.common import (
    DEFAULT_ADDR,
    Addr,
    Consistency,
    Json,
    Token,
    json_bytes,
    new_app,
    print_json,
    print_table,
    talk,
    text_or_escaped,
)
from aspen.limits import KV_SCAN_DEFAULT, KV_SCAN_MAX, KV_VALUE_BYTES

if TYPE_CHECKING:
    from aspen.client import KvEntry, KvScan, NodeClient

app = new_app("The replicated key-value store.")

_SHOWN_CHARS = 120  # of a value, in a table

Key = Annotated[str, typer.Argument(help="The key, up to 500 bytes.", metavar="KEY")]


@app.command()
def get(
    key: Key,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the value's exact bytes to FILE (- is stdout)."
        ),
    ] = None,
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addr = DEFAULT_ADDR,
    token: Token = None,
) -> None:
    """Print the value of KEY. Exits 3 if there is none."""
    entry = talk(addr, token, as_json, lambda client: client.kv_get(os.fsencode(key), consistency))
    if output == "-":
        sys.stdout.buffer.write(entry.value)
        sys.stdout.buffer.flush()
    elif output is not None:
        Path(output).write_bytes(entry.value)
    elif as_json:
        print_json(_entry_json(entry))
    else:
        sys.stdout.buffer.write(entry.value + b"\n")
        sys.stdout.buffer.flush()


@app.command()
def put(
    key: Key,
    value: Annotated[
        str, typer.Argument(help="The value, up to 1 MiB; - reads standard input.", metavar="VALUE|-")
    ],
    as_json: Json = False,
    addr: Addr = DEFAULT_ADDR,
    token: Token = None,
) -> None:
    """Set KEY to VALUE; returns once a quorum has it on disk."""
    data = sys.stdin.buffer.read(KV_VALUE_BYTES + 1) if value == "-" else os.fsencode(value)
    written = talk(addr, token, as_json, lambda client: client.kv_put(os.fsencode(key), data))
    if as_json:
        print_json({**json_bytes("key", os.fsencode(key)), "revision": written.revision})
    else:
        print(f"stored at revision {written.revision}")


@app.command()
def delete(key: Key, as_json: Json = False, addr: Addr = DEFAULT_ADDR, token: Token = None) -> None:
    """Delete KEY. Exits 3 if there was none."""
    written = talk(addr, token, as_json, lambda client: client.kv_delete(os.fsencode(key)))
    if as_json:
        print_json(
            {**json_bytes("key", os.fsencode(key)), "revision": written.revision, "deleted": written.changed}
        )
    else:
        print(f"deleted at revision {written.revision}")


@app.command()
def scan(
    prefix: Annotated[str, typer.Option(help="Only keys that begin with this.")] = "",
    after: Annotated[str | None, typer.Option(metavar="KEY", help="Continue after this key.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=KV_SCAN_MAX, help="Keys at most.")] = KV_SCAN_DEFAULT,
    every: Annotated[bool, typer.Option("--all", help="Go on until there are no more keys.")] = False,
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addr = DEFAULT_ADDR,
    token: Token = None,
) -> None:
    """List keys and values, in the order of the keys."""

    async def action(client: NodeClient) -> tuple[list[KvEntry], KvScan]:
        entries: list[KvEntry] = []
        start = os.fsencode(after) if after is not None else None
        while True:
            page = await client.kv_scan(
                os.fsencode(prefix), after=start, limit=limit, consistency=consistency
            )
            entries += page.entries
            if not (every and page.more and page.entries):
                return entries, page
            start = page.entries[-1].key

    entries, last = talk(addr, token, as_json, action)
    if as_json:
        print_json(
            {
                "entries": [_entry_json(entry) for entry in entries],
                "more": last.more,
                "revision": last.revision,
            }
        )
        return
    rows = [
        (text_or_escaped(entry.key), _shortened(text_or_escaped(entry.value)), str(entry.mod_revision))
        for entry in entries
    ]
    print_table(None, ("key", "value", "revision"), rows)
    if last.more:
        print("There are more: --all lists every key, --limit and --after a part of them.")


def _entry_json(entry: KvEntry) -> dict[str, Any]:
    return {
        **json_bytes("key", entry.key),
        **json_bytes("value", entry.value),
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
    }


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
