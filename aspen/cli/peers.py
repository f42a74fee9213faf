"""`aspen peers`: the nodes that a node knows of."""

from __future__ import annotations

from typing import Any

from aspen.cli.common import Addrs, Json, Token, print_json, print_table, talk

_COLUMNS = ("node", "endpoint id", "path", "RTT ms", "last announced", "addresses")
_SHORT_CHARS = 12


def peers(as_json: Json = False, addr: Addrs = None, token: Token = None) -> None:
    """Show the nodes that the node asked knows of, how it knows them and how it reaches them.

    An address is followed by who said so: `connected` and `inbound` are proven, the others hearsay.
    """
    told = talk(addr, token, as_json, lambda client: client.peers())
    if as_json:
        print_json(told)
        return
    rows = [_row(peer) for peer in told["peers"]]
    whole = "" if all(peer["member"] for peer in told["peers"]) else "endpoint id"
    print_table(f"{len(rows)} peers; gossip with {told['neighbours']}", _COLUMNS, rows, whole=whole)
    if told["refused"]:
        refused = ", ".join(f"{reason} {count}" for reason, count in told["refused"].items())
        print(f"announcements not believed: {refused}")


def _row(peer: dict[str, Any]) -> tuple[str, ...]:
    rtts = [connection["rtt_ms"] for connection in peer["connections"]]
    announced = peer["announced_ms_ago"]
    addresses = " ".join(f"{known['address']} ({', '.join(known['sources'])})" for known in peer["addresses"])
    return (
        (str(peer["node_id"]) if peer["node_id"] else "?") + ("" if peer["member"] else " (no member)"),
        # A member's node id names it; whoever is none can be named by the whole endpoint id only.
        peer["endpoint_id"][:_SHORT_CHARS] + "…" if peer["member"] else peer["endpoint_id"],
        peer["path"],
        f"{min(rtts):.1f}" if rtts else "-",
        f"{announced / 1000:.0f} s ago" if announced >= 0 else "-",
        addresses or "-",
    )
