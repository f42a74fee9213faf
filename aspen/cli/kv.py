"""`aspen kv`: the replicated key-value store. Keys and values are bytes; `-` is standard input."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aspen.cli import kv_files, lease
from aspen.cli.common import (
    Addrs,
    Consistency,
    Json,
    Token,
    fail,
    json_bytes,
    new_app,
    print_json,
    print_table,
    talk_to_any,
    text_or_escaped,
)
from aspen.cli.kv_shown import entry_json, input_bytes, shortened
from aspen.errors import InputError
from aspen.limits import KV_SCAN_DEFAULT, KV_SCAN_MAX

if TYPE_CHECKING:
    from aspen.client import KvEntry, KvScan
    from aspen.client.kv import KvCalls

app = new_app("The replicated key-value store.")
app.add_typer(lease.app, name="lease")
app.command("txn")(kv_files.txn)
app.command("watch")(kv_files.watch)
app.command("import")(kv_files.import_)
app.command("export")(kv_files.export)

Key = Annotated[str, typer.Argument(help="The key, up to 500 bytes.", metavar="KEY")]
Value = Annotated[
    str, typer.Argument(help="The value, up to 1 MiB; - reads standard input.", metavar="VALUE|-")
]
Once = Annotated[
    str | None,
    typer.Option(
        metavar="ID", help="Idempotency key: sent again under the same within ten minutes, done once."
    ),
]
IfRevision = Annotated[
    int | None,
    typer.Option(
        "--if-revision", min=0, metavar="N", help="Only if last modified at revision N (0: if absent)."
    ),
]


@app.command()
def get(
    key: Key,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the value's exact bytes to FILE (- is stdout)."
        ),
    ] = None,
    revision: Annotated[int | None, typer.Option(min=0, metavar="N", help="As it was at revision N.")] = None,
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Print the value of KEY. Exits 3 if there is none."""
    entry = talk_to_any(
        addr,
        token,
        as_json,
        lambda client: client.kv_get(os.fsencode(key), consistency, revision=revision),
    )
    if output == "-":
        sys.stdout.buffer.write(entry.value)
        sys.stdout.buffer.flush()
    elif output is not None:
        Path(output).write_bytes(entry.value)
    elif as_json:
        print_json(entry_json(entry))
    else:
        sys.stdout.buffer.write(entry.value + b"\n")
        sys.stdout.buffer.flush()


@app.command()
def put(
    key: Key,
    value: Value,
    lease: Annotated[int, typer.Option(min=0, metavar="ID", help="End the key with this lease.")] = 0,
    ttl: Annotated[
        float,
        typer.Option(
            min=0,
            max=31_536_000,
            metavar="SECONDS",
            help="End the key after so long, unless set again; 0 is never.",
        ),
    ] = 0,
    if_revision: IfRevision = None,
    once: Once = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Set KEY to VALUE; returns once a quorum has it on disk."""
    data = input_bytes(value)
    written = talk_to_any(
        addr,
        token,
        as_json,
        lambda client: client.kv_put(
            os.fsencode(key),
            data,
            lease=lease,
            ttl_ms=round(ttl * 1_000),
            if_mod_revision=if_revision,
            once=once,
        ),
    )
    if as_json:
        print_json({**json_bytes("key", os.fsencode(key)), "revision": written.revision})
    else:
        print(f"stored at revision {written.revision}")


@app.command()
def cas(
    key: Key,
    expected: Annotated[str, typer.Argument(metavar="EXPECTED", help="The value that must be there.")],
    value: Value,
    as_json: Json = False,
    once: Once = None,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Set KEY to VALUE if its value is EXPECTED. Exits 6 if it isn't.

    For a key that must not exist yet, use `put --if-revision 0`.
    """
    data = input_bytes(value)
    written = talk_to_any(
        addr,
        token,
        as_json,
        lambda client: client.kv_put(os.fsencode(key), data, if_value=os.fsencode(expected), once=once),
    )
    if as_json:
        print_json({**json_bytes("key", os.fsencode(key)), "revision": written.revision})
    else:
        print(f"swapped at revision {written.revision}")


@app.command()
def incr(
    key: Key,
    delta: Annotated[int, typer.Argument(metavar="DELTA", help="What to add; if negative, after --.")] = 1,
    once: Once = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Add to the number that KEY holds, and print the sum. A key that doesn't exist counts as 0."""
    sum_ = talk_to_any(
        addr, token, as_json, lambda client: client.kv_increment(os.fsencode(key), delta, once=once)
    )
    if as_json:
        print_json({**json_bytes("key", os.fsencode(key)), "value": sum_.value, "revision": sum_.revision})
    else:
        print(sum_.value)


@app.command()
def delete(
    key: Annotated[str, typer.Argument(help="The key; with --prefix, what keys begin with.", metavar="KEY")],
    prefix: Annotated[bool, typer.Option("--prefix", help="Delete every key that begins with KEY.")] = False,
    if_revision: IfRevision = None,
    every: Annotated[bool, typer.Option("--all", help="With --prefix and an empty KEY: every key.")] = False,
    once: Once = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Delete KEY. Exits 3 if there was none."""
    octets = os.fsencode(key)
    if prefix and not octets and not every:
        fail(InputError("every key begins with nothing: say --all if you mean all of them"), as_json)
    if prefix and once is not None:
        fail(
            InputError("--once is for one key: --prefix takes as many commands as there are thousands"),
            as_json,
        )
    written = talk_to_any(
        addr,
        token,
        as_json,
        lambda client: (
            client.kv_delete_prefix(octets)
            if prefix
            else client.kv_delete(octets, if_mod_revision=if_revision, once=once)
        ),
    )
    if as_json:
        print_json({**json_bytes("key", octets), "revision": written.revision, "deleted": written.changed})
    elif prefix:
        print(f"deleted {written.changed} keys by revision {written.revision}")
    else:
        print(f"deleted at revision {written.revision}")


@app.command()
def scan(
    prefix: Annotated[str, typer.Option(help="Only keys that begin with this.")] = "",
    start: Annotated[str | None, typer.Option(metavar="KEY", help="From this key on.")] = None,
    end: Annotated[str | None, typer.Option(metavar="KEY", help="Before this key.")] = None,
    after: Annotated[str | None, typer.Option(metavar="KEY", help="Continue after this key.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=KV_SCAN_MAX, help="Keys at most.")] = KV_SCAN_DEFAULT,
    every: Annotated[bool, typer.Option("--all", help="Go on until there are no more keys.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Leave the values out.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only count the keys.")] = False,
    descending: Annotated[bool, typer.Option("--desc", help="From the last key to the first.")] = False,
    revision: Annotated[int | None, typer.Option(min=0, metavar="N", help="As it was at revision N.")] = None,
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """List keys and values, in the order of the keys. All pages of --all are of one moment."""

    async def action(client: KvCalls) -> tuple[list[KvEntry], KvScan, int]:
        entries: list[KvEntry] = []
        counted = 0
        page = await client.kv_scan(
            os.fsencode(prefix),
            start=None if start is None else os.fsencode(start),
            end=None if end is None else os.fsencode(end),
            after=None if after is None else os.fsencode(after),
            limit=None if count else limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count,
            descending=descending,
            consistency=consistency,
        )
        while True:
            entries += page.entries
            counted += page.count
            if not ((every or count) and page.more and page.cursor):
                return entries, page, counted
            page = await client.kv_scan(
                cursor=page.cursor, limit=None if count else limit, consistency=consistency
            )

    entries, last, counted = talk_to_any(addr, token, as_json, action)
    if count:
        print_json({"count": counted, "revision": last.revision}) if as_json else print(counted)
        return
    if as_json:
        print_json(
            {
                "entries": [entry_json(entry) for entry in entries],
                "more": last.more,
                "revision": last.revision,
            }
        )
        return
    rows = [
        (text_or_escaped(entry.key), shortened(text_or_escaped(entry.value)), str(entry.mod_revision))
        for entry in entries
    ]
    print_table(None, ("key", "value", "revision"), rows)
    if last.more:
        print("There are more: --all lists every key, --limit and --after a part of them.")
