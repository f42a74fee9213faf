"""What every command shares: options, exit codes, and how results and failures are shown.

A command is an `async` action over a client, or plain local work; `talk`, `talk_to_any` and `local` run it
and turn `AspenError` into one line on standard error and an exit code. Results go to standard
output: a table or text for people, one JSON document with `--json`. Heavy modules (aiohttp, rich)
are imported where they are used, so that `--help` is quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import typer

from aspen.errors import (
    AspenError,
    ClientCompareFailed,
    ClientError,
    ClientNotFound,
    ClientOutcomeUnknown,
    ClientUnavailable,
    ConfigError,
    InputError,
    JoinError,
)

if TYPE_CHECKING:
    from aspen.client import NodeClient
    from aspen.client.kv import KvCalls

T = TypeVar("T")

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed or refused, 2 wrong usage or configuration, 3 not found, "
    "4 no node answers or no leader is known (nothing was changed), "
    "5 a write was sent but its outcome is unknown, 6 a key is not as expected (nothing was changed)."
)


class Exit(IntEnum):
    """What `EXIT_CODES` says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    OUTCOME_UNKNOWN = 5
    COMPARE_FAILED = 6


DEFAULT_ADDR = "http://127.0.0.1:8080"

Addrs = Annotated[
    list[str] | None,
    typer.Option(
        "--addr",
        envvar="ASPEN_ADDR",
        help="A node's HTTP address; several, separated by commas or by --addr again: "
        "what one certainly did not do, the next is asked for.",
        metavar="URL",
        show_default=DEFAULT_ADDR,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="ASPEN_ADMIN_TOKEN", help="Bearer token of the admin routes.", show_envvar=True
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
Consistency = Annotated[
    Literal["consistent", "leader", "stale"],
    typer.Option(
        help="How fresh: consistent (linearizable), leader (only the leader answers), "
        "stale (this node's replica as it is).",
    ),
]

_SHOWN_CHARS = 60
_GAP_CHARS = 3  # between two columns
_PIPED_CHARS = 200


def new_app(summary: str, *, completion: bool = False) -> typer.Typer:
    """A group of commands, with the settings all groups share."""
    return typer.Typer(
        help=f"{summary}\n\n{EXIT_CODES}",
        no_args_is_help=True,
        add_completion=completion,
        rich_markup_mode=None,  # plain help: square brackets stay, and rich isn't loaded for it
        pretty_exceptions_enable=False,  # a traceback with local variables could show a secret
    )


def talk(
    addrs: list[str] | None, token: str | None, as_json: bool, action: Callable[[NodeClient], Awaitable[T]]
) -> T:
    """Run `action` with a client of one node: of the first that does it. The next is asked only for what
    those before it certainly have not begun."""
    import asyncio

    from aspen.client import NodeClient

    async def run() -> T:
        failures: list[ClientUnavailable] = []
        for addr in addresses(addrs):
            async with NodeClient(addr, token=token) as client:
                try:
                    return await action(client)
                except ClientUnavailable as error:
                    if client.has_written:
                        raise
                    failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        reasons = "; ".join(str(failure) for failure in failures)
        raise ClientUnavailable(failures[-1].status, failures[-1].code, reasons)

    return local(as_json, lambda: asyncio.run(run()))


def talk_to_any(
    addrs: list[str] | None,
    token: str | None,
    as_json: bool,
    action: Callable[[KvCalls], Awaitable[T]],
) -> T:
    """Run `action` with a client of one node, or of several: then what one certainly did not do goes to
    the next. A write of unknown outcome does so only under an idempotency key."""
    import asyncio

    from aspen.client import Client, NodeClient

    async def run() -> T:
        named = addresses(addrs)
        if len(named) == 1:
            async with NodeClient(named[0], token=token) as client:
                return await action(client)
        async with Client(named, token=token) as cluster:
            return await action(cluster)

    return local(as_json, lambda: asyncio.run(run()))


def addresses(addrs: list[str] | None) -> list[str]:
    """The nodes that `--addr` or ASPEN_ADDR name."""
    named = [addr.strip() for text in addrs or () for addr in text.split(",")]
    return [addr for addr in named if addr] or [DEFAULT_ADDR]


def local(as_json: bool, action: Callable[[], T]) -> T:
    """Run `action`; end the process with a message and an exit code if it fails."""
    try:
        return action()
    except AspenError as error:
        fail(error, as_json)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        fail(InputError(f"{error.filename}: {error.strerror}"), as_json)  # a wrong argument
    except OSError as error:
        fail(AspenError(f"{error.filename or 'input or output'}: {error.strerror or error}"), as_json)
    except UnicodeEncodeError:
        fail(InputError("an argument is not UTF-8 text"), as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(error: AspenError, as_json: bool = False) -> NoReturn:
    """Say what went wrong and end with the exit code that fits."""
    code = error.code if isinstance(error, ClientError | JoinError) else type(error).__name__
    problems = error.problems if isinstance(error, ConfigError) else ()
    if as_json:
        current = {"current": error.current} if isinstance(error, ClientCompareFailed) else {}
        each = {"problems": problems} if problems else {}
        print(json.dumps({"error": code, "reason": str(error), **current, **each}), file=sys.stderr)
    elif len(problems) > 1:
        print(f"aspen: {len(problems)} problems with the configuration:", file=sys.stderr)
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
    else:
        print(f"aspen: {error}", file=sys.stderr)
        for hint in _hints(error):
            print(f"  {hint}", file=sys.stderr)
    raise typer.Exit(exit_code(error))


def exit_code(error: AspenError) -> Exit:
    match error:
        case ClientNotFound():
            return Exit.NOT_FOUND
        case ClientCompareFailed():
            return Exit.COMPARE_FAILED
        case ClientUnavailable():
            return Exit.UNAVAILABLE
        case ClientOutcomeUnknown():
            return Exit.OUTCOME_UNKNOWN
        case ConfigError() | InputError():
            return Exit.USAGE
        case JoinError(code="unreachable"):
            return Exit.UNAVAILABLE
        case JoinError(code="unanswered"):
            return Exit.OUTCOME_UNKNOWN
        case JoinError(code="malformed"):
            return Exit.USAGE
        case _:
            return Exit.FAILED


def _hints(error: AspenError) -> Sequence[str]:
    if isinstance(error, ClientError) and error.code == "unreachable":
        return ("Start one with `aspen dev`, or name another with --addr or ASPEN_ADDR.",)
    if isinstance(error, ClientError) and error.code == "key_exists":
        return ("--replace exchanges it.",)
    if isinstance(error, ClientError) and error.code == "certificate":
        return ("Trusted is what the system trusts, and what SSL_CERT_FILE names.",)
    if isinstance(error, ClientError) and error.status in (401, 403) and error.code != "reserved_key":
        return ("This route needs the node's admin token: --token or ASPEN_ADMIN_TOKEN.",)
    if isinstance(error, ClientCompareFailed):
        return (_now(error.current),)
    if isinstance(error, ClientOutcomeUnknown):
        return ("The write may or may not have happened: read before writing again.",)
    return ()


def _now(entry: dict[str, Any] | None) -> str:
    """What a key holds that was expected to be otherwise."""
    import base64

    if entry is None:
        return "There is no such key."
    value = text_or_escaped(base64.b64decode(entry.get("value", "")))
    shown = value if len(value) <= _SHOWN_CHARS else f"{value[:_SHOWN_CHARS]}…"
    return f"It is {printable(shown)!r}, last changed at revision {entry.get('mod_revision')}."


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def print_table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], *, whole: str = ""
) -> None:
    """A table on standard output. Cells are shown as they are, control characters escaped.

    The column `whole` is never broken, so that what is in it can be copied: in a terminal that is too narrow
    each row is a block of lines.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    # Piped, a table must not be cut to some terminal's width.
    console.width = console.width if sys.stdout.isatty() else _PIPED_CHARS
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    if whole and sum(width + _GAP_CHARS for width in widths) > console.width:
        print(*([title] if title else []), sep="")
        for row in cells:
            for name, cell in zip(columns, row, strict=True):
                print(f"{name:<{max(map(len, columns))}}  {cell}")
            print()
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=bool(whole) and column == whole)
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def printable(text: str) -> str:
    """The text with control characters escaped, so that stored data can't drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def text_or_escaped(data: bytes) -> str:
    """Bytes for people: as UTF-8 where they are, with escapes where they aren't."""
    return data.decode("utf-8", "backslashreplace")


def json_bytes(name: str, data: bytes) -> dict[str, str | None]:
    """Bytes for programs: as text if they are UTF-8 (else null), and always in base64."""
    import base64

    try:
        text: str | None = data.decode()
    except UnicodeDecodeError:
        text = None
    return {name: text, f"{name}_base64": base64.b64encode(data).decode()}
