"""`aspen cluster`: who the members are, who leads, and changing either."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from aspen.cli import backup, check, profile
from aspen.cli.common import (
    EXIT_CODES,
    Addrs,
    Json,
    Token,
    fail,
    local,
    new_app,
    print_json,
    print_table,
    talk,
)
from aspen.errors import InputError
from aspen.limits import (
    CONTROL_MAX_MS,
    CONTROL_MS,
    CONTROL_POLL_MS,
    ROTATION_MS,
    TICKET_LIFE_MAX_S,
    TICKET_LIFE_MIN_S,
    TICKET_LIFE_S,
)

if TYPE_CHECKING:
    from aspen.client import NodeClient

app = new_app(
    "The cluster's members and state.\n\n"
    "Changes may be asked of any member. A command returns when the change is in effect there; "
    "with exit code 5 the change may have been made (look with `aspen cluster status`), with every "
    "other code but 0 it was not."
)

_EXAMPLES: Final = {
    "init": "Example: aspen cluster init --member 2@<endpoint id>@192.0.2.2:7300",
    "add-learner": "Example: aspen cluster add-learner 4@<endpoint id>@192.0.2.4:7300",
    "join": "Example: aspen cluster join aspensigned… --data-dir /var/lib/aspen --host 192.0.2.4",
    "change-membership": "Example: aspen cluster change-membership 1 2 3",
}

NodeId = Annotated[int, typer.Argument(help="A member's node id.", metavar="NODE", min=1)]
PEER_FORM: Final = "NODE@ENDPOINT@HOST:PORT"


def _seconds(default_ms: int, meaning: str) -> Any:
    return typer.Option(
        "--timeout",
        help=f"{meaning} [{default_ms // 1000}]",
        metavar="SECONDS",
        min=0,
        max=CONTROL_MAX_MS // 1000,
    )


Timeout = Annotated[float | None, _seconds(CONTROL_MS, "Give up after so long; nothing is changed then.")]


@app.command(epilog=EXIT_CODES)
def status(as_json: Json = False, addr: Addrs = None, token: Token = None) -> None:
    """Show members, leader and how far the log has come, as the node asked sees it."""
    _show(talk(addr, token, as_json, lambda client: client.status()), as_json)


@app.command(epilog=f"{_EXAMPLES['init']}\n\n{EXIT_CODES}")
def init(
    member: Annotated[
        list[str] | None,
        typer.Option("--member", help="Another founder, running already; repeat it.", metavar=PEER_FORM),
    ] = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Found a cluster of the node asked, and of others if they are named.

    The node must belong to no cluster yet. The other founders must know this node: start them with
    it among their --peers.
    """
    request = {"members": [_peer(text, as_json) for text in member or ()]}
    _change("init", request, None, as_json, addr, token)


@app.command("add-learner", epilog=f"{_EXAMPLES['add-learner']}\n\n{EXIT_CODES}")
def add_learner(
    node: Annotated[str, typer.Argument(help="The new member, running already.", metavar=PEER_FORM)],
    timeout: Timeout = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Add a member that gets the log but has no vote.

    Its node id and endpoint id must be nobody else's. Named again with another address, a member gets
    that address. `promote` gives it a vote.
    """
    _change("add-learner", _peer(node, as_json), timeout, as_json, addr, token)


@app.command(epilog=EXIT_CODES)
def promote(
    node_id: NodeId,
    timeout: Timeout = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Give a learner its vote, once it has caught up with the log."""
    _change("promote", {"node_id": node_id}, timeout, as_json, addr, token)


@app.command(epilog=EXIT_CODES)
def remove(
    node_id: NodeId,
    timeout: Timeout = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Take a member out of the cluster.

    A leader hands over first. The removed node says so in its status and its log, and stops voting.
    To use its machine again, wipe its data directory (identity included) and add it anew.
    """
    _change("remove", {"node_id": node_id}, timeout, as_json, addr, token)


@app.command("change-membership", epilog=f"{_EXAMPLES['change-membership']}\n\n{EXIT_CODES}")
def change_membership(
    voters: Annotated[
        list[int],
        typer.Argument(help="Node ids of all who are to vote, members already.", metavar="NODE...", min=1),
    ],
    timeout: Timeout = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Make these members the voters, all in one step. Voters that aren't named leave the cluster."""
    _change("change-membership", {"members": voters}, timeout, as_json, addr, token)


@app.command("transfer-leader", epilog=EXIT_CODES)
def transfer_leader(
    node_id: NodeId,
    timeout: Timeout = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Have another voter lead."""
    _change("transfer-leader", {"node_id": node_id}, timeout, as_json, addr, token)


@app.command(epilog=EXIT_CODES)
def snapshot(as_json: Json = False, addr: Addrs = None, token: Token = None) -> None:
    """Cut the log of the node asked down to its newest entries. Its state stands for the rest.

    Nodes do this by themselves. Members that lag behind what is left are sent the state instead.
    """
    answer = talk(addr, token, as_json, lambda client: client.control("snapshot", {}))
    if as_json:
        print_json(answer)
        return
    print(
        f"node {answer.get('node_id')} keeps its log from {answer.get('first_index')} on; "
        f"the state is that of {answer.get('applied_index')}"
    )


def _change(
    action: str,
    request: dict[str, Any],
    timeout: float | None,
    as_json: bool,
    addr: list[str] | None,
    token: str | None,
) -> None:
    timeout_ms = CONTROL_MS if timeout is None else round(timeout * 1000)
    answer = talk(addr, token, as_json, lambda client: client.control(action, request, timeout_ms=timeout_ms))
    _show(answer, as_json)


@app.command(epilog=EXIT_CODES)
def ticket(
    signed: Annotated[
        bool, typer.Option("--signed", help="Let whoever holds it join, until it expires: keep it secret.")
    ] = False,
    ttl: Annotated[
        int | None,
        typer.Option(
            help=f"How long a signed ticket lives. [{TICKET_LIFE_S}]",
            metavar="SECONDS",
            min=TICKET_LIFE_MIN_S,
            max=TICKET_LIFE_MAX_S,
        ),
    ] = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Print a ticket with which a new node joins: aspen cluster join TICKET.

    A plain one only tells where the cluster is and holds no secret: the new node must know the cookie.
    A signed one is all that a new machine needs, so treat it as a password.
    """
    told = talk(
        addr, token, as_json, lambda client: client.ticket(signed=signed or ttl is not None, ttl_s=ttl)
    )
    if as_json:
        print_json({name: value for name, value in told.items() if value is not None})
    else:
        print(told["ticket"])


@app.command(
    epilog=f"{_EXAMPLES['join']}\n\n{EXIT_CODES}",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def join(
    context: typer.Context,
    ticket: Annotated[
        str,
        typer.Argument(help="A ticket, or - to read it from standard input.", metavar="TICKET"),
    ],
) -> None:
    """Make this machine a node of a ticket's cluster, and run it until Ctrl-C.

    Takes all options of `aspen node run`, of which a new machine may need --data-dir, --host, --node-id
    (the next free one if it isn't given) and --learner (no vote: a read replica). A signed ticket is
    enough; with a plain one the cookie must be set. The command shows how far the node has come. Run
    again after a crash, anywhere on the way, it goes on; once the node has joined, `aspen node run` with
    the same --data-dir will do.
    """
    from aspen.cli import node

    text = sys.stdin.read().strip() if ticket == "-" else ticket
    if not text:
        fail(InputError("the ticket is empty: did `aspen cluster ticket` print one?"))
    arguments = ["run", "--show-joining", f"--ticket={text}", *context.args]
    code = typer.main.get_command(node.app).main(arguments, prog_name="aspen node", standalone_mode=False)
    if code:
        raise typer.Exit(code)


@app.command("rotate-identity", epilog=EXIT_CODES)
def rotate_identity(
    timeout: Timeout = None, as_json: Json = False, addr: Addrs = None, token: Token = None
) -> None:
    """Change the identity key of the node asked, without downtime of the cluster.

    The node makes itself a new key, the members admit it by either, another takes over if it leads, and
    it starts again under the new key, which takes the old one's place. Returns when all that is done.
    Name one node only; afterwards correct its endpoint id wherever it is written down (`peers`).
    """
    timeout_ms = CONTROL_MS if timeout is None else round(timeout * 1000)
    told = talk(addr, token, as_json, lambda client: _rotate(client, timeout_ms))
    if as_json:
        print_json(told)
    else:
        print(f"node {told['node_id']} was {told['was']}\nand is now {told['becomes']}")


async def _rotate(client: NodeClient, timeout_ms: int) -> dict[str, Any]:
    import asyncio
    import time

    from aspen.errors import ClientOutcomeUnknown, ClientUnavailable

    told = await client.control("rotate-identity", {}, timeout_ms=timeout_ms)
    deadline = time.monotonic() + ROTATION_MS / 1000
    while time.monotonic() < deadline:
        await asyncio.sleep(CONTROL_POLL_MS / 1000)
        try:
            status = await client.status()
        except ClientUnavailable:
            continue  # it is starting
        bound = {member["node_id"]: member["endpoint_id"] for member in status.get("members", ())}
        if status["endpoint_id"] == told["becomes"] == bound.get(told["node_id"]):
            return told
    raise ClientOutcomeUnknown(
        0,
        "outcome_unknown",
        f"node {told['node_id']} has not come back as {told['becomes']} yet: see its log",
    )


backup.add_commands(app)
check.add_commands(app)
profile.add_commands(app)


def _peer(text: str, as_json: bool) -> dict[str, Any]:
    from aspen.config import parse_peer

    peer = local(as_json, lambda: parse_peer(text, "the member"))
    addresses = [] if peer.address is None else [_address(peer.address)]
    return {"node_id": peer.node_id, "endpoint_id": peer.endpoint_id.hex(), "addresses": addresses}


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    leader = answer.get("leader_id") or 0
    print(
        f"node {answer.get('node_id')} · {answer.get('role', 'member')} · term {answer.get('term')} · "
        f"{f'leader is node {leader}' if leader else 'no leader is known'}"
    )
    print(f"committed up to {answer.get('commit_index')}, applied up to {answer.get('applied_index')}")
    rows = [_row(member, leader) for member in answer.get("members", [])]
    if not rows:
        this = f"{answer.get('node_id')}@{answer.get('endpoint_id')}@<host>:<QUIC port>"
        print("it belongs to no cluster: found one with `aspen cluster init`, or ask a member to take it in:")
        print(f"  aspen cluster add-learner {this}")
        return
    print_table(None, ("node", "role", "endpoint id", "addresses"), rows, whole="endpoint id")


def _row(member: dict[str, Any], leader: int) -> tuple[str, ...]:
    node_id = member.get("node_id")
    addresses = ", ".join(map(_address, member.get("addresses", ())))
    role = str(member.get("role", ""))
    if node_id == leader and role != "leader":
        role = f"{role}, leader"
    return (str(node_id), role, str(member.get("endpoint_id", "")), addresses)


def _address(address: Any) -> str:
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
