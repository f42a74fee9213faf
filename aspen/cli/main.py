"""The `aspen` and `aspen-node` commands. Each group lives in its own module beside this one."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Final

import typer

from aspen import __version__
from aspen.cli import cluster, config, dev, dig, doctor, health, kv, node, peers, pkarr, record, relay, zone
from aspen.cli.common import EXIT_CODES, Exit, new_app

app = new_app("Aspen: a Raft-replicated DNS and pkarr server.", completion=True)
app.add_typer(node.app, name="node")
app.command("dev", epilog=EXIT_CODES)(dev.dev)
app.add_typer(cluster.app, name="cluster")
app.command("peers", epilog=EXIT_CODES)(peers.peers)
app.command("health", epilog=EXIT_CODES)(health.health)
app.add_typer(kv.app, name="kv")
app.add_typer(pkarr.app, name="pkarr")
app.add_typer(zone.app, name="zone")
app.add_typer(record.app, name="record")
app.command("dig", epilog=EXIT_CODES)(dig.dig)
app.command("relay", epilog=EXIT_CODES)(relay.relay)
app.add_typer(config.app, name="config")
app.command("doctor", epilog=EXIT_CODES)(doctor.doctor)

node_app = new_app("Run one Aspen node: `aspen node run` under a name of its own.")
node_app.command(epilog=EXIT_CODES)(node.run)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"aspen {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before any command."""


TRACEBACK_VARIABLE: Final = "ASPEN_TRACEBACK"
_MISREAD: Final = (AttributeError, LookupError, TypeError)
"""Raised where JSON is read that lacks what a node's answer has."""


def main() -> None:
    """Entry point of `aspen`."""
    _run(app, "aspen")


def node_main() -> None:
    """Entry point of `aspen-node`."""
    _run(node_app, "aspen-node")


def _run(command: typer.Typer, name: str) -> None:
    """The last resort: what nobody has foreseen ends in one line, too, unless a traceback is asked for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not have every character
            stream.reconfigure(errors="backslashreplace")
    try:
        command(prog_name=name)
    except OSError as error:  # where results are written to
        print(f"aspen: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(Exit.FAILED)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        from aspen.logs import redact

        print(f"aspen: unexpected {type(error).__name__}: {redact(str(error))}", file=sys.stderr)
        whose = "This is a defect of Aspen"
        if isinstance(error, _MISREAD):
            whose += ", unless what was asked is no Aspen node, or one of another version"
        print(f"  {whose}. With {TRACEBACK_VARIABLE}=1 it says where, for a report.", file=sys.stderr)
        sys.exit(Exit.FAILED)


if __name__ == "__main__":
    main()
