"""`aspen config`: what a node would be told, from which source, and whether it makes sense."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aspen.cli.common import EXIT_CODES, Json, local, new_app, print_json, print_table

if TYPE_CHECKING:
    from aspen.config_sources import LoadedConfig

app = new_app("A node's configuration.")

# What is commonly given when a node is started rather than in its file.
_GIVEN_AT_START = {"node_id": 1, "cookie": "stands in for the real one"}


@app.callback()
def _group() -> None:
    """Keeps `check` a subcommand while it is the only one."""


@app.command(epilog=EXIT_CODES)
def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="TOML file of settings.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="The same.")] = None,
    as_json: Json = False,
) -> None:
    """Load and validate a configuration (environment and FILE) and say what it found.

    Exits 2 if a node would refuse it. A node id and a cookie may be left to whoever starts
    the node; then it says that they are still needed.
    """
    loaded, missing, warnings = local(as_json, lambda: _checked(config if config is not None else file))
    rows = _rows(loaded)
    if as_json:
        given = {name: {"value": value, "source": source} for name, value, source in rows}
        print_json({"valid": True, "settings": given, "still_needed": missing, "warnings": warnings})
        return
    if rows:
        print_table(
            None, ("setting", "value", "from"), [(name, str(value), source) for name, value, source in rows]
        )
    for text in warnings:
        print(f"warning: {text}")
    for name in missing:
        print(f"still needed to start a node: {name}")
    print("The configuration is valid.")


def _checked(file: Path | None) -> tuple[LoadedConfig, list[str], list[str]]:
    from aspen.config_sources import LoadedConfig, load_config

    loaded = load_config(config_file=file, environment=os.environ, flags={})
    missing = [name for name in _GIVEN_AT_START if name not in loaded.sources]
    stand_ins = {name: _GIVEN_AT_START[name] for name in missing}
    complete = LoadedConfig(loaded.config.replace(**stand_ins), loaded.sources)
    return loaded, missing, complete.validate()


def _rows(loaded: LoadedConfig) -> list[tuple[str, Any, str]]:
    from aspen.config import SECRET_SETTINGS, settings

    values = {path: value for path, value, _default in settings(loaded.config)}
    rows = []
    for path, source in sorted(loaded.sources.items()):
        value = values[path]
        shown = value if value is None or isinstance(value, bool | int | list) else str(value)
        rows.append((path, "(secret)" if path in SECRET_SETTINGS else shown, source))
    return rows
