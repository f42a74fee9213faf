"""Writes the pages that are made from the code: docs/cli.md and docs/http-api.md.

    python scripts/pages.py

The first is what the commands say of themselves with --help, the second what a node answers at /openapi.json.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import typer
from click.testing import CliRunner

from aspen.cli.common import EXIT_CODES
from aspen.cli.main import app
from aspen.client import NodeClient
from aspen.client.transport import read_json
from aspen.config import ClusterBootstrapConfig
from aspen.node import bootstrap_node

DOCS: Final = Path(__file__).parents[1] / "docs"
CLI_PAGE: Final = DOCS / "cli.md"
HTTP_PAGE: Final = DOCS / "http-api.md"
COLUMNS: Final = 100
TAGS: Final = {
    "pkarr": "pkarr",
    "packets": "Packets, for operators",
    "dns": "DNS over HTTPS",
    "zones": "Zones",
    "kv": "Keys, leases and transactions",
    "cluster": "The cluster",
    "health": "Health and metrics",
    "ui": "The dashboard",
}
CLI_HEAD: Final = """\
What every command says with `--help`. Made from the code: `python scripts/pages.py` writes this page anew.

Commands that ask a node take its address from `--addr` or `ASPEN_ADDR` (several, separated by commas: what
one certainly did not do, the next is asked for) and the token of the admin routes from `ASPEN_ADMIN_TOKEN`.
With `--json` they print one JSON document, errors included."""
HTTP_HEAD: Final = """\
Every route of a node. Made from its own `GET /openapi.json` (OpenAPI 3.1), which has the schemas of all
bodies as well; `python scripts/pages.py` writes this page anew.

**Admin routes** are served on a loopback listener, or to those who send the token:
`Authorization: Bearer <admin_token>`. The others are open to anyone. What GET has, HEAD has too, without the
body. Not described here: `/relay`, where nodes speak with a relay over WebSocket ([relay.md](relay.md)),
and `/.well-known/acme-challenge/…`, where a certificate authority asks ([tls.md](tls.md)).

Errors are JSON: `{"error": code, "reason": text}`. Further statuses that any route may answer with are 400
(a request that can't be read), 404, 405, 413, 431, 500 and 503 (`no_leader`, `overloaded`,
`outcome_unknown`, …)."""
METHODS: Final = ("get", "head", "put", "post", "delete", "patch")

# --- the command line -------------------------------------------------------------------------


def cli_page() -> str:
    command = typer.main.get_command(app)
    parts = ["# Command line", CLI_HEAD, EXIT_CODES]
    for path, help_text in _helps(command, command, ("aspen",)):
        parts += [f"{'#' * min(len(path) + 1, 4)} {' '.join(path)}", f"```text\n{help_text}\n```"]
    return "\n\n".join(parts) + "\n"


def _helps(
    root: click.Command, command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    yield path, _help(root, path)
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from _helps(root, child, (*path, name))


def _help(root: click.Command, path: tuple[str, ...]) -> str:
    """As it is printed, but for the exit codes, which are the same everywhere."""
    shown = CliRunner().invoke(root, [*path[1:], "--help"], prog_name="aspen", terminal_width=COLUMNS)
    if shown.exit_code:
        raise SystemExit(f"{' '.join(path)} --help: {shown.output}")
    paragraphs = shown.output.strip("\n").split("\n\n")
    return "\n\n".join(p for p in paragraphs if not p.strip().startswith("Exit codes:"))


# --- HTTP -------------------------------------------------------------------------------------


def http_page(document: dict[str, Any]) -> str:
    """Of an OpenAPI document."""
    parts = ["# HTTP", HTTP_HEAD]
    schemas = document["components"]["schemas"]
    operations = [
        (path, method.upper(), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]
    tags = list(dict.fromkeys([*TAGS, *(operation["tags"][0] for _, _, operation in operations)]))
    for tag in tags:
        found = [entry for entry in operations if entry[2]["tags"][0] == tag]
        if found:
            parts.append(f"## {TAGS.get(tag, tag.capitalize())}")
            parts += [
                part
                for path, method, operation in found
                for part in _operation(path, method, operation, schemas)
            ]
    return "\n\n".join(parts) + "\n"


def _operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    if method == "HEAD":
        return  # as GET, without the body
    yield f"### `{method} {path}`"
    admin = " An admin route." if operation.get("security") else ""
    summary = operation["summary"]
    yield f"{summary if summary.endswith('?') else summary.rstrip('.') + '.'}{admin}"
    rows = [_parameter(parameter) for parameter in operation.get("parameters", ())]
    if rows:
        yield "\n".join(["| parameter | in | |", "|---|---|---|", *rows])
    if body := operation.get("requestBody"):
        needed = "" if body.get("required") else ", if there is one"
        yield f"Body{needed}: {_media(body)}."
        named = [_named(what.get("schema"), schemas) for what in body["content"].values()]
        for schema in filter(None, named):
            needs = schema.get("required", ())
            fields = [_field(*field, schemas, needs) for field in schema["properties"].items()]
            yield "\n".join(["| field | | if it isn't given |", "|---|---|---|", *fields])
    answers = [
        f"- {status}: {_line(answer['description'])}{f' ({media})' if (media := _media(answer)) else ''}"
        for status, answer in sorted(operation["responses"].items())
        if status.startswith("2") or "content" not in answer or status in ("304", "409", "410", "412")
    ]
    yield "\n".join(answers)


def _parameter(parameter: dict[str, Any]) -> str:
    need = " (required)" if parameter.get("required") and parameter["in"] != "path" else ""
    return f"| `{parameter['name']}` | {parameter['in']}{need} | {_line(parameter.get('description', ''))} |"


def _field(name: str, schema: dict[str, Any], schemas: dict[str, Any], needs: Sequence[str]) -> str:
    default = (
        "" if isinstance(schema.get("default"), (dict, type(None))) else f"`{json.dumps(schema['default'])}`"
    )
    return f"| `{name}` | {_kind(schema, schemas)} | {'refused' if name in needs else default} |"


def _kind(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """What a field takes, in few words."""
    if found := _named(schema, schemas):
        return "{" + ", ".join(f"`{name}`" for name in found.get("properties", ())) + "}"
    if choices := schema.get("anyOf"):
        return " or ".join(_kind(one, schemas) for one in choices if one.get("type") != "null")
    if schema.get("type") == "array":
        kind = _kind(schema["items"], schemas)
        return f"list of {kind}{'s' if kind.isalpha() else ''}"
    if values := schema.get("enum"):
        return ", ".join(f"`{value}`" for value in values)
    return schema.get("contentEncoding") or str(schema.get("type", "any"))


def _named(schema: dict[str, Any] | None, schemas: dict[str, Any]) -> dict[str, Any] | None:
    """What a reference stands for."""
    return schemas.get((schema or {}).get("$ref", "").rpartition("/")[2])


def _media(part: dict[str, Any]) -> str:
    return ", ".join(
        f"`{media}`{_schema(what.get('schema'))}" for media, what in part.get("content", {}).items()
    )


def _schema(schema: dict[str, Any] | None) -> str:
    name = (schema or {}).get("$ref", "").rpartition("/")[2]
    return f" `{name}`" if name else ""


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


async def document() -> dict[str, Any]:
    """What a node says of its routes."""
    with tempfile.TemporaryDirectory() as folder:
        config = ClusterBootstrapConfig(
            node_id=1,
            data_dir=folder,
            cookie="only to write the documentation",
            init=True,
            host="127.0.0.1",
            dns_port=0,
            quic_port=0,
            http_addr="127.0.0.1:0",
        )
        async with await bootstrap_node(config) as node:
            address = node.http.address
            async with NodeClient(f"http://{address[0]}:{address[1]}") as client:
                return read_json((await client.ask("GET", "/openapi.json")).body, dict[str, Any])


def main() -> None:
    CLI_PAGE.write_text(cli_page(), "utf-8")
    HTTP_PAGE.write_text(http_page(asyncio.run(document())), "utf-8")


if __name__ == "__main__":
    main()
