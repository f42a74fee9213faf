"""`aspen kv txn`, `watch`, `import` and `export`: what reads or writes more than one value.

Files are JSON lines, one key a line: `{"key": "a", "value": "1"}`, or `key_base64` and `value_base64`
for bytes that are no text; further members are left alone. `-` is standard input or output.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from aspen.cli.common import (
    Addrs,
    Exit,
    Json,
    Token,
    addresses,
    json_bytes,
    print_json,
    talk_to_any,
    text_or_escaped,
)
from aspen.cli.kv_shown import entry_json, json_to_bytes, shortened
from aspen.cli.progress import progress
from aspen.errors import InputError
from aspen.limits import KV_BATCH_KEYS, KV_IMPORT_BYTES, KV_SCAN_DEFAULT

if TYPE_CHECKING:
    from aspen.client import Changes, TxnResult
    from aspen.client.kv import KvCalls

File = Annotated[
    str, typer.Argument(metavar="FILE|-", help="A file of JSON lines; - is the standard stream.")
]


def txn(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="The transaction as JSON; - reads standard input.")
    ] = "-",
    once: Annotated[str | None, typer.Option(metavar="ID", help="Idempotency key.")] = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Compare keys, then do one thing or another, all at once. Exits 6 if the comparison failed.

    \b
    {"compare": [{"key": "a", "value": "1"}],
     "success": [{"op": "put", "key": "a", "value": "2"}],
     "failure": [{"op": "get", "key": "a"}]}

    Keys and values are text here, or key_base64 and value_base64; numbers are compared as in
    {"key": "a", "is": ">", "version": 3}, existence as in {"key": "a", "exists": false}.
    """

    async def action(client: KvCalls) -> TxnResult:
        parts = _read_txn(file)
        return await client.kv_txn(parts["compare"], parts["success"], parts["failure"], once=once)

    result = talk_to_any(addr, token, as_json, action)
    shown: list[dict[str, Any]] = []
    for outcome in result.results:
        if outcome.op == "get":
            shown.append({"op": "get", "entry": entry_json(outcome.entry) if outcome.entry else None})
        else:
            shown.append({"op": outcome.op, "changed": outcome.changed})
    if as_json:
        print_json({"succeeded": result.succeeded, "revision": result.revision, "results": shown})
    else:
        print(f"{'succeeded' if result.succeeded else 'failed'} at revision {result.revision}")
        for outcome in result.results:
            if outcome.op == "get":
                found = "(none)" if outcome.entry is None else shortened(text_or_escaped(outcome.entry.value))
                print(f"  get: {found}")
            else:
                print(f"  {outcome.op}: {outcome.changed} changed")
    if not result.succeeded:
        raise typer.Exit(Exit.COMPARE_FAILED)


def _read_txn(file: str) -> dict[str, list[dict[str, Any]]]:
    with _reading(file) as source:
        try:
            given = json.load(source)
        except UnicodeDecodeError:
            raise InputError("the transaction is not JSON: it is not UTF-8 text") from None
        except ValueError as error:
            raise InputError(f"the transaction is not JSON: {error}") from None
    if not isinstance(given, dict) or given.keys() - {"compare", "success", "failure"}:
        raise InputError("a transaction has compare, success and failure, and nothing else")
    parts: dict[str, list[dict[str, Any]]] = {}
    for part in ("compare", "success", "failure"):
        parts[part] = []
        items = given.get(part, [])
        if not isinstance(items, list):
            raise InputError(f"{part} is not a list")
        for item in items:
            if not isinstance(item, dict):
                raise InputError(f"an item of {part} is not an object")
            read = {name: given_ for name, given_ in item.items() if not name.endswith("_base64")}
            read["key"] = json_to_bytes(item, "key")
            if "value" in item or "value_base64" in item:
                read["value"] = json_to_bytes(item, "value")
            parts[part].append(read)
    return parts


def watch(
    prefix: Annotated[str, typer.Option(help="Only keys that begin with this.")] = "",
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Only this key.")] = None,
    start: Annotated[
        int | None, typer.Option("--from", min=0, metavar="N", help="From revision N on; else from now on.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many changes.")] = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Print every change of keys as it happens. Each is a line, with --json a JSON document.

    If --addr names several nodes, the watch goes on when one of them fails.
    """
    import asyncio

    from aspen.cli.common import local
    from aspen.client import Client

    async def follow() -> None:
        left = count
        async with Client(addresses(addr), token=token) as client:
            octets = None if key is None else os.fsencode(key)
            async for told in client.kv_watch(os.fsencode(prefix), key=octets, start=start):
                for line in _lines(told, as_json):
                    print(line, flush=True)
                    if left is not None:
                        left -= 1
                        if not left:
                            return

    local(as_json, lambda: asyncio.run(follow()))


def _lines(told: Changes, as_json: bool) -> Iterator[str]:
    for change in told.changes:
        if as_json:
            shown = {"type": change.type, "revision": told.revision}
            shown |= entry_json(change) if change.type == "put" else json_bytes("key", change.key)
            yield json.dumps(shown, ensure_ascii=False)
        else:
            value = f"  {shortened(text_or_escaped(change.value))!r}" if change.type == "put" else ""
            yield f"{told.revision}  {change.type:<6}  {text_or_escaped(change.key)!r}{value}"


def import_(
    file: File,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Set the keys of a file. Batches of it are atomic, the whole is not; doing it again does no harm."""

    async def action(client: KvCalls) -> int:
        done = 0
        with (
            _reading(file) as source,
            progress("imported", None if file == "-" else os.stat(file).st_size) as advance,
        ):
            for pairs, octets in _batches(source):
                await client.kv_batch(pairs)
                done += len(pairs)
                advance(octets, done)
        return done

    done = talk_to_any(addr, token, as_json, action)
    print_json({"imported": done}) if as_json else print(f"imported {done} keys")


def export(
    file: File = "-",
    prefix: Annotated[str, typer.Option(help="Only keys that begin with this.")] = "",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Write keys and values to a file, as of one moment. Fails if that moment passes out of the history."""

    async def action(client: KvCalls) -> int:
        done = 0
        total = (await client.kv_scan(os.fsencode(prefix), count_only=True, limit=None)).count
        page = await client.kv_scan(os.fsencode(prefix), limit=KV_SCAN_DEFAULT)
        with _writing(file) as out, progress("exported", total) as advance:
            while True:
                for entry in page.entries:
                    line = {**json_bytes("key", entry.key), **json_bytes("value", entry.value)}
                    out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                done += len(page.entries)
                advance(len(page.entries), done)
                if page.cursor is None:
                    return done
                page = await client.kv_scan(cursor=page.cursor, limit=KV_SCAN_DEFAULT)

    done = talk_to_any(addr, token, as_json, action)
    if file != "-":
        print_json({"exported": done}) if as_json else print(f"exported {done} keys")


def _batches(lines: Iterable[bytes]) -> Iterator[tuple[list[tuple[bytes, bytes]], int]]:
    """Pairs for one command each, and the bytes of the file that they were. Raises `InputError`."""
    pairs: dict[bytes, bytes] = {}
    size = octets = 0
    for number, line in enumerate(lines, 1):
        octets += len(line)
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            if not isinstance(item, dict):
                raise InputError("not an object")
            key, value = json_to_bytes(item, "key"), json_to_bytes(item, "value")
        except UnicodeDecodeError:
            raise InputError(f"line {number}: not UTF-8 text") from None
        except json.JSONDecodeError as error:
            raise InputError(f"line {number}: not JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, InputError) as error:
            raise InputError(f"line {number}: {error}") from None
        if pairs and (len(pairs) == KV_BATCH_KEYS or size + len(key) + len(value) > KV_IMPORT_BYTES):
            yield list(pairs.items()), octets - len(line)
            pairs, size, octets = {}, 0, len(line)
        pairs[key] = value
        size += len(key) + len(value)
    if pairs:
        yield list(pairs.items()), octets


@contextmanager
def _reading(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdin.buffer
    else:
        with open(file, "rb") as source:
            yield source


@contextmanager
def _writing(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with open(file, "wb") as target:
            yield target
