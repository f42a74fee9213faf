"""The tables of docs/configuration.md, made from the code: `python -m aspen.cli.reference`.

Names, types and defaults are those of the structs, explanations their fields' docstrings. Between its
markers the page is replaced; what is written around them stays.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from aspen.cli.node import run
from aspen.config import (
    FROM_PROFILE,
    SECRET_SETTINGS,
    ClusterBootstrapConfig,
    DnsServerConfig,
    HttpsConfig,
    IrohConfig,
    expected,
    setting_types,
)
from aspen.config.pkarr import PkarrConfig
from aspen.config.sources import ELSEWHERE

PAGE: Final = Path(__file__).parents[2] / "docs" / "configuration.md"
BEGIN, END = "<!-- begin: made by python -m aspen.cli.reference -->", "<!-- end -->"

SECTIONS: Final[tuple[tuple[str, type[msgspec.Struct]], ...]] = (
    ("", ClusterBootstrapConfig),
    ("dns_server", DnsServerConfig),
    ("dns_server.https_config", HttpsConfig),
    ("iroh", IrohConfig),
    ("pkarr", PkarrConfig),
)

INSTEAD: Final = {
    "cargo run --example NAME": "`python examples/NAME.py`",
    "./scripts/run-examples.sh": "the same",
    "nix develop": "`make install`",
    "curl http://localhost:8080/cluster-ticket": "the same, or `aspen cluster ticket`",
    "curl https://dns.iroh.link": "`aspen doctor`: it asks the service that `dns_discovery_url` names",
    "curl https://pkarr.iroh.link": "`aspen doctor`: it asks the relay that `pkarr_relay_url` names",
    "ping dns.iroh.link": "`aspen doctor`",
    "ping <peer-lan-ip>": "`aspen peers`: the path to each peer, and its round trip time",
}
"""Command lines of the documents that Aspen grew from → what to type."""


def field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The docstring under each field, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    name = ""
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif name and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            docs[name] = " ".join(str(statement.value.value).split())
            name = ""
        else:
            name = ""
    return docs


def tables() -> Iterator[str]:
    """The generated part of the page, line by line."""
    flags = _flags()
    for prefix, struct in SECTIONS:
        yield f"## `[{prefix}]`" if prefix else "## Top level"
        yield ""
        yield "| setting | takes | default | flag | what it does |"
        yield "|---|---|---|---|---|"
        docs = field_docs(struct)
        types = setting_types(struct, f"{prefix}." if prefix else "")
        for field in msgspec.structs.fields(struct):
            path = f"{prefix}.{field.name}" if prefix else field.name
            if path in types:
                cells = (
                    f"`{field.name}`",
                    expected(types[path]),
                    _default(path, field),
                    f"`{flags[path]}`" if path in flags else "",
                    docs.get(field.name, ""),
                )
                yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        yield ""
    yield "## Names from elsewhere"
    yield ""
    yield "A file may come from a neighbour of Aspen's. These names are refused with a word on what to write:"
    yield ""
    yield "| name | instead |"
    yield "|---|---|"
    for name, instead in ELSEWHERE.items():
        yield f"| `{name}` | {instead} |"
    yield ""
    yield "And these are command lines of the documents that Aspen grew from:"
    yield ""
    yield "| command | instead |"
    yield "|---|---|"
    for command, instead in INSTEAD.items():
        yield f"| `{command}` | {instead} |"


def page(text: str) -> str:
    """The page with its generated part replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n".join(tables()).rstrip() + f"\n\n{END}{after}"


def _flags() -> dict[str, str]:
    """Setting → the flag of `aspen node run`."""
    special = {"origin": "dns_server.origins", "disable_gossip": "iroh.enable_gossip"}
    special |= {"disable_mdns": "iroh.enable_mdns"}
    last = {path.rpartition(".")[2]: path for path in reversed(setting_types())}
    parameters = [name for name in inspect.signature(run).parameters if name != "config"]
    return {special.get(name, last.get(name, name)): _flag(name) for name in parameters}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _default(path: str, field: Any) -> str:
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if path in SECRET_SETTINGS or default is None or default in ("", []):
        return ""
    if default == FROM_PROFILE:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ", ".join(default) if isinstance(default, list) else str(default)


def main() -> None:
    text = PAGE.read_text("utf-8")
    new = page(text)
    if new == text:
        print("docs/configuration.md is up to date")
        return
    PAGE.write_text(new, "utf-8")
    print("docs/configuration.md written", file=sys.stderr)


if __name__ == "__main__":
    main()
