"""The `aspen` and `aspen-node` commands. Each group lives in its own module beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from aspen import __version__
from aspen.cli import cluster, config, dev, dig, doctor, health, kv, node, peers, pkarr, record, relay, zone
from aspen.cli.common import EXIT_CODES, new_app

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


def main() -> None:
    """Entry point of `aspen`."""
    app(prog_name="aspen")


def node_main() -> None:
    """Entry point of `aspen-node`."""
    node_app(prog_name="aspen-node")


if __name__ == "__main__":
    main()
