"""`aspen cluster check`: whether the members' states are the same, member by member as they say it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aspen.cli.common import EXIT_CODES, Addrs, Exit, Json, Token, print_json, print_table, talk
from aspen.limits import CHECKPOINT_LOOK_MS, CHECKPOINT_MS, CHECKPOINT_UNREACHED_MS, CONTROL_MAX_MS

if TYPE_CHECKING:
    from aspen.client import NodeClient

Report = dict[str, Any]


def add_commands(app: typer.Typer) -> None:
    app.command(epilog=EXIT_CODES)(check)


def check(
    timeout: Annotated[
        float | None,
        typer.Option(
            help=f"Wait so long for every member's answer. [{CHECKPOINT_MS // 1000}]",
            metavar="SECONDS",
            min=0,
            max=CONTROL_MAX_MS // 1000,
        ),
    ] = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Compare all members' state at one point of the log, and say who differs.

    Each member hashes everything the log has made there, while writes go on. Who isn't reached is waited
    for only a moment. Exits 1 if a member differs, 4 if none does but some don't answer.
    """
    timeout_ms = CHECKPOINT_MS if timeout is None else round(timeout * 1000)

    def shown(line: str) -> None:
        if not as_json:
            print(line, file=sys.stderr, flush=True)

    answer = talk(addr, token, as_json, lambda client: _compared(client, timeout_ms, shown))
    members = answer.get("members", [])
    if as_json:
        print_json(answer)
    else:
        print(f"state at index {answer.get('index')}:")
        rows = [(str(m.get("node_id")), _state(m), str(m.get("hash") or "–")) for m in members]
        print_table(None, ("node", "state", "hash"), rows, whole="hash")
    states = {member.get("state") for member in members}
    if "differs" in states:
        raise typer.Exit(Exit.FAILED)
    if not answer.get("alike"):
        raise typer.Exit(Exit.UNAVAILABLE)


async def _compared(client: NodeClient, timeout_ms: int, shown: Callable[[str], None]) -> Report:
    """The node's last report. Until then, who has answered meanwhile is `shown`."""
    import asyncio

    started, told = time.monotonic(), set[int]()
    request: dict[str, Any] = {}
    while True:
        asked = time.monotonic()
        look_ms = max(0, min(CHECKPOINT_LOOK_MS, timeout_ms - round((asked - started) * 1000)))
        answer = await client.control("check", request, timeout_ms=look_ms)
        silent = [member for member in answer.get("members", ()) if member.get("state") == "silent"]
        waited_ms = round((time.monotonic() - started) * 1000)
        patience_ms = timeout_ms
        if not any(member.get("reached", True) for member in silent):
            patience_ms = min(timeout_ms, CHECKPOINT_UNREACHED_MS)
        if not silent or waited_ms >= patience_ms:
            return answer
        for member in answer.get("members", ()):
            if member not in silent and member["node_id"] not in told:
                told.add(member["node_id"])
                shown(f"node {member['node_id']} has hashed its state")
        waiting = ", ".join(
            f"{m['node_id']}{'' if m.get('reached', True) else ' (not reached)'}" for m in silent
        )
        shown(f"waiting for node {waiting}: {waited_ms / 1000:.0f} of {patience_ms / 1000:g} s")
        request = {"index": answer["index"]}
        await asyncio.sleep(asked + look_ms / 1000 - time.monotonic())


def _state(member: Report) -> str:
    state = str(member.get("state"))
    return state if member.get("reached", True) or state != "silent" else "silent, not reached"
