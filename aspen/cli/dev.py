"""`aspen dev`: a whole cluster on this machine, one process a node, for trying things out.

`dev_layout` writes the directory, `dev_processes` runs the nodes in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aspen.cli.common import local
from aspen.limits import RAFT_MEMBERS


def dev(
    nodes: Annotated[int, typer.Option(min=1, max=RAFT_MEMBERS, help="How many nodes.")] = 1,
    profile: Annotated[
        Literal["default", "lan"],
        typer.Option(help="lan: fast elections, for one machine or a quiet network."),
    ] = "default",
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where everything is kept.")] = Path(
        ".aspen-dev"
    ),
    dns_port: Annotated[
        int, typer.Option(min=1, max=65_535, help="DNS port of node 1; +1 for each further.")
    ] = 5300,
    http_port: Annotated[int, typer.Option(min=1, max=65_535, help="HTTP port of node 1; likewise.")] = 8080,
    quic_port: Annotated[int, typer.Option(min=1, max=65_535, help="QUIC port of node 1; likewise.")] = 7300,
    log_format: Annotated[Literal["console", "json"], typer.Option(help="Of the nodes' logs.")] = "console",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Of the nodes' logs.")
    ] = "info",
) -> None:
    """Run a cluster on this machine until Ctrl-C; its data is kept and found again.

    Node i listens on each first port + i - 1 and keeps its state in DIR/node-<i>, with its process
    id in node.pid there. A node that ends is reported, not restarted.
    """
    import asyncio

    from aspen.cli import dev_layout
    from aspen.cli.dev_processes import DevCluster

    def run() -> int:
        with dev_layout.claim(data_dir):
            laid_out = dev_layout.prepare(
                data_dir,
                nodes=nodes,
                dns_port=dns_port,
                http_port=http_port,
                quic_port=quic_port,
                settings={"profile": profile, "log_format": log_format, "log_level": log_level},
            )
            cluster = DevCluster(laid_out, data_dir, dev_layout.cookie(data_dir), prefix=log_format != "json")
            return asyncio.run(cluster.run())

    code = local(False, run)
    if code:
        raise typer.Exit(code)
