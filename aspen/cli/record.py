"""`aspen record`: records of authored zones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aspen.cli.common import (
    Addrs,
    Consistency,
    Json,
    Token,
    local,
    new_app,
    print_json,
    printable,
    talk,
)
from aspen.cli.names import ascii_data, name_argument, name_in_data, name_option, warn_of_missing_dot

if TYPE_CHECKING:
    from aspen.client import NodeClient

app = new_app("Records of authored zones.")

Owner = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The whole name; with --zone, one without a final dot is relative to it.",
        callback=name_argument,
    ),
]
Type = Annotated[str, typer.Argument(metavar="TYPE", help="A, MX, TXT, TYPE65280, …")]
Data = Annotated[
    list[str],
    typer.Argument(metavar="DATA...", help="Data as in a master file, one argument a record: '10 mail'."),
]
Zone = Annotated[
    str | None,
    typer.Option(
        "--zone",
        metavar="ZONE",
        help="The zone; without it, the one that NAME is in.",
        callback=name_option,
    ),
]
Ttl = Annotated[
    int | None, typer.Option(metavar="SECONDS", help="TTL, 60 to 604800; the zone's default without it.")
]


@app.command(name="set")
def set_records(
    name: Owner,
    rrtype: Type,
    data: Data,
    ttl: Ttl = None,
    add: Annotated[bool, typer.Option("--add", help="Keep the records that are there.")] = False,
    zone: Zone = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Make DATA the records of NAME and TYPE; returns once a quorum has them on disk."""
    written = local(as_json, lambda: [ascii_data(rrtype, text) for text in data])
    change = {"op": "add" if add else "set", "name": name, "type": rrtype, "data": written, "ttl": ttl}
    done = _change(addr, token, as_json, zone, change)
    _print_changed(done, as_json)
    relative = [name] if zone is not None else []
    for each in (*relative, *(name_in_data(rrtype, text) for text in written)):
        warn_of_missing_dot(each, done["zone"])


@app.command()
def delete(
    name: Owner,
    rrtype: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="Only this type.", show_default=False)
    ] = None,
    data: Annotated[
        list[str] | None, typer.Argument(metavar="[DATA...]", help="Only these.", show_default=False)
    ] = None,
    zone: Zone = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Delete records: of a name, of a type of it, or with this data. Exits 3 if there were none."""
    written = local(as_json, lambda: [ascii_data(rrtype or "", text) for text in data or ()])
    change = {"op": "delete", "name": name, "type": rrtype, "data": written}

    async def action(client: NodeClient) -> dict[str, Any]:
        from aspen.errors import ClientNotFound

        done = await _make(client, zone, change)
        if not done["changed"]:
            raise ClientNotFound(200, "not_found", "there were no such records")
        return done

    _print_changed(talk(addr, token, as_json, action), as_json)


@app.command()
def get(
    name: Owner,
    rrtype: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="Only this type.", show_default=False)
    ] = None,
    zone: Zone = None,
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Print the records of NAME. Exits 3 if there are none."""

    async def action(client: NodeClient) -> list[dict[str, Any]]:
        from aspen.client import NodeZones
        from aspen.errors import ClientNotFound

        zones = NodeZones(client)
        where, owner = await _where(zones, zone, name)
        found = await zones.records(where, owner, rrtype, consistency)
        if not found:
            raise ClientNotFound(404, "not_found", f"there are no such records at {name}")
        return found

    _print_records(talk(addr, token, as_json, action), as_json)


@app.command(name="list")
def list_records(
    zone: Annotated[str, typer.Argument(metavar="ZONE", help="The zone's name.", callback=name_argument)],
    rrtype: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only this type.")] = None,
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Print all records of a zone. Exits 3 if there is no such zone."""

    async def action(client: NodeClient) -> list[dict[str, Any]]:
        from aspen.client import NodeZones

        return await NodeZones(client).records(zone, None, rrtype, consistency)

    _print_records(talk(addr, token, as_json, action), as_json)


def _change(
    addr: list[str] | None, token: str | None, as_json: bool, zone: str | None, change: dict[str, Any]
) -> dict[str, Any]:
    return talk(addr, token, as_json, lambda client: _make(client, zone, change))


async def _make(client: NodeClient, zone: str | None, change: dict[str, Any]) -> dict[str, Any]:
    from aspen.client import NodeZones

    zones = NodeZones(client)
    where, owner = await _where(zones, zone, change["name"])
    return await zones.change(where, [{**change, "name": owner}])


async def _where(zones: Any, zone: str | None, name: str) -> tuple[str, str]:
    """The zone of a name, and the name as it is told to the node."""
    if zone is not None:
        return zone, name
    absolute = name if name.endswith(".") else name + "."
    return await zones.of(absolute), absolute


def _print_changed(done: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        print(f"{done['zone']} changed, serial {done['serial']}" if done["changed"] else "nothing to change")


def _print_records(records: Iterable[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"records": list(records)})
        return
    for record in records:
        for data in record["data"]:
            print(printable(f"{record['name']} {record['ttl']} IN {record['type']} {data}"))
