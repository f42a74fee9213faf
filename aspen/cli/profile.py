"""`aspen cluster profile`: what a running node's time goes into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aspen.cli.common import EXIT_CODES, Addrs, Json, Token, local, print_json, print_table, talk
from aspen.limits import PROFILE_DEFAULT_MS, PROFILE_MS

_EXAMPLE = "Example: aspen cluster profile --node 2 --seconds 10 --flame node.svg"


def add_commands(app: typer.Typer) -> None:
    app.command(epilog=f"{_EXAMPLE}\n\n{EXIT_CODES}")(profile)


def profile(
    seconds: Annotated[
        float, typer.Option(help="Look for so long.", min=0.1, max=PROFILE_MS / 1000)
    ] = PROFILE_DEFAULT_MS / 1000,
    node: Annotated[
        int | None,
        typer.Option(
            help="Of this member, wherever it is; without it of the node asked.", metavar="ID", min=1
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Functions to show.", min=1)] = 15,
    flame: Annotated[
        Path | None,
        typer.Option(
            help="Write the stacks to a file: a flame graph if its name ends with .svg, else one stack and "
            "its samples a line.",
            metavar="FILE",
        ),
    ] = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Look at the stacks of a running node's threads, and say where its time goes.

    Shares are of the time in which a thread did something, waiting for the disk included. UDP workers are
    processes of their own: of them, only the processor time is told. Looking costs a few percent while it
    lasts. Any member can be asked for any other's: the nodes hand it on.
    """
    told = talk(addr, token, as_json, lambda client: client.profile(seconds, node))
    if flame is not None:
        stacks: dict[str, int] = told["stacks"]
        local(as_json, lambda: flame.write_text(_file(flame, stacks, told), "utf-8"))
    if as_json:
        print_json(told)
    else:
        _show(told, top)


def _file(path: Path, stacks: dict[str, int], told: dict[str, Any]) -> str:
    if path.suffix != ".svg":
        return "".join(f"{stack} {count}\n" for stack, count in stacks.items())
    from aspen.cli.flame import flame_graph

    return flame_graph(stacks, f"{told['samples']} samples in {told['seconds']:g} s")


def _show(told: dict[str, Any], top: int) -> None:
    samples = max(1, told["samples"])
    cpu = ", ".join(
        f"{name} {100 * s / max(0.001, told['seconds']):.0f} %" for name, s in told["cpu"].items()
    )
    print(f"{told['samples']} samples in {told['seconds']:g} s; of a core: {cpu}")
    rows = [(part, _percent(count, samples)) for part, count in told["parts"].items()]
    print_table(None, ("part", "share"), rows)
    shown = told["functions"][:top]
    rows_of_functions = [
        (_percent(f["own"], samples), _percent(f["total"], samples), f["name"], f["place"]) for f in shown
    ]
    print_table(None, ("own", "with callees", "function", "place"), rows_of_functions)


def _percent(count: int, samples: int) -> str:
    return f"{100 * count / samples:.1f} %"
