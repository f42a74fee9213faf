"""`aspen health`: how a node is, check by check."""

from __future__ import annotations

import typer

from aspen.cli.common import Addrs, Exit, Json, Token, print_json, print_table, talk


def health(as_json: Json = False, addr: Addrs = None, token: Token = None) -> None:
    """Show how the node asked is, and why: disk, leader, certificate, clock and more.

    Exits 1 if it is unhealthy; degraded (somebody should look, but it serves) is 0.
    """
    told = talk(addr, token, as_json, lambda client: client.health())
    if as_json:
        print_json(told)
    else:
        print(f"{told['status']}, {'ready' if told['ready'] else 'not ready'}")
        rows = [(check["name"], check["status"], check["reason"] or "–") for check in told["checks"]]
        print_table(None, ("check", "status", "reason"), rows)
    if told["status"] == "unhealthy":
        raise typer.Exit(Exit.FAILED)
