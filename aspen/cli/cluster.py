"""`aspen cluster`: the members, and who leads."""

from __future__ import annotations

from typing import Any

from aspen.cli.common import DEFAULT_ADDR, Addr, Json, Token, new_app, print_json, print_table, talk

app = new_app("The cluster's members and state.")


@app.callback()
def _group() -> None:
    """Keeps `status` a subcommand while it is the only one."""


@app.command()
def status(as_json: Json = False, addr: Addr = DEFAULT_ADDR, token: Token = None) -> None:
    """Show the members, the leader and how far the log has come, as the node asked sees it."""
    answer = talk(addr, token, as_json, lambda client: client.status())
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
    print_table(None, ("node", "role", "endpoint id", "addresses"), rows)


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
    return f"{host}:{port}"
