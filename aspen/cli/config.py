"""`aspen config`: what a node would be told, from which source, and whether it makes sense."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from aspen.cli.common import EXIT_CODES, Json, local, new_app, print_json, print_table

if TYPE_CHECKING:
    from aspen.config.sources import LoadedConfig, Problems

app = new_app(
    "A node's configuration.\n\n"
    "Settings come from defaults < ASPEN_* variables < TOML file < flags of `aspen node run`."
)

# What is commonly given when a node is started rather than in its file.
_GIVEN_AT_START: Final = {"node_id": 1, "cookie": "stands in for the real one"}
# … and what sees to it that the node is told when it gets into its cluster.
_TOLD_BY: Final = {"node_id": ("ticket", "auto_cluster"), "cookie": ("ticket",)}

_NAME: Final = re.compile(r"[a-z_]+")

File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="TOML file of settings.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The same.")]
OriginOption = Annotated[
    bool,
    typer.Option("--origin", help="Show every setting, and which source its value comes from."),
]


@app.command(epilog=EXIT_CODES)
def check(
    file: File = None,
    config: ConfigFile = None,
    origin: OriginOption = False,
    as_json: Json = False,
) -> None:
    """Load and validate a configuration (environment and FILE) and say what it found.

    Exits 2 if a node would refuse it. A node id and a cookie may be left to whoever starts
    the node; then it says that they are still needed.
    """
    problems: Problems = []
    loaded, overruled = local(as_json, lambda: _load(config if config is not None else file, problems))
    missing, warnings, security = local(as_json, lambda: _checked(loaded, problems))
    warnings = [*warnings, *overruled]
    rows = _rows(loaded, everything=origin)
    if as_json:
        given = {name: {"value": value, "source": source} for name, value, source in rows}
        told = {"valid": True, "settings": given, "still_needed": missing, "warnings": warnings}
        print_json({**told, "security": security})
        return
    if rows:
        _print_settings(rows, with_origin=True)
    print_table(None, ("security", ""), list(security.items()))
    for text in warnings:
        print(f"warning: {text}")
    for name in missing:
        print(f"still needed to start a node: {name}")
    print("The configuration is valid.")


@app.command(epilog=EXIT_CODES)
def show(
    file: File = None,
    config: ConfigFile = None,
    origin: OriginOption = False,
    as_json: Json = False,
) -> None:
    """Show every setting as a node would have it, secrets left out. It is loaded, not validated."""
    loaded, _ = local(as_json, lambda: _load(config if config is not None else file))
    rows = _rows(loaded, everything=True)
    if as_json:
        print_json({name: {"value": value, "source": source} for name, value, source in rows})
    else:
        _print_settings(rows, with_origin=origin)


def _load(file: Path | None, problems: Problems | None = None) -> tuple[LoadedConfig, list[str]]:
    """The configuration as a node would have it, and what was overruled; `problems` as for `load_config`."""
    from aspen.config.security import apply_security_defaults
    from aspen.config.sources import NODE_DEFAULTS, load_config

    loaded = load_config(
        config_file=file, environment=os.environ, flags={}, defaults=NODE_DEFAULTS, problems=problems
    )
    overruled = apply_security_defaults(loaded.config)
    for path in overruled:
        loaded.sources[path] += " (overruled)"
    return loaded, list(overruled.values())


def _checked(loaded: LoadedConfig, problems: Problems) -> tuple[list[str], list[str], Mapping[str, str]]:
    """Settings still missing, warnings, the report on security. Raises `ConfigError` with all problems."""
    from aspen.config.security import security_report
    from aspen.config.sources import LoadedConfig
    from aspen.errors import ConfigError

    missing = [
        name
        for name in _GIVEN_AT_START
        if not any(getattr(loaded.config, setting) for setting in (name, *_TOLD_BY[name]))
    ]
    stand_ins = {name: _GIVEN_AT_START[name] for name in missing if name not in loaded.sources}
    complete = LoadedConfig(loaded.config.replace(**stand_ins), loaded.sources)
    try:
        warnings = complete.validate()
    except ConfigError as error:
        # What was left out before has its default now, of which nothing is to be said.
        left_out = {path.rpartition(".")[2] for path, _text in problems}
        problems += [("", text) for text in error.problems if not left_out & set(_NAME.findall(text))]
    if problems:
        raise ConfigError(*(text for _setting, text in problems))
    return missing, warnings, security_report(loaded.config, loaded.origin)


def _rows(loaded: LoadedConfig, *, everything: bool) -> list[tuple[str, Any, str]]:
    """Name, value and origin of what was given, or of every setting."""
    from aspen.config import SECRET_SETTINGS, settings
    from aspen.config.sources import OTHER_SPELLINGS

    rows = []
    for path, value, _default in sorted(settings(loaded.config), key=lambda setting: setting[0]):
        given = path in loaded.sources
        if not given and (not everything or path in OTHER_SPELLINGS):
            continue
        shown = value if value is None or isinstance(value, bool | int | float | list) else str(value)
        if path in SECRET_SETTINGS and value:
            shown = "(secret)"
        rows.append((path, shown, loaded.origin(path)))
    return rows


def _print_settings(rows: list[tuple[str, Any, str]], *, with_origin: bool) -> None:
    def text(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(map(str, value)) or "–"
        return "–" if value is None or value == "" else str(value)

    if with_origin:
        print_table(
            None, ("setting", "value", "from"), [(n, text(value), origin) for n, value, origin in rows]
        )
    else:
        print_table(None, ("setting", "value"), [(name, text(value)) for name, value, _origin in rows])
