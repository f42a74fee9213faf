"""`aspen zone`: authored zones, and the keys that guard them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aspen.cli import zone_key
from aspen.cli.common import (
    Addrs,
    Consistency,
    Json,
    Token,
    local,
    new_app,
    print_json,
    print_table,
    talk,
)
from aspen.cli.names import (
    ascii_data,
    ascii_name,
    name_argument,
    name_in_data,
    name_options,
    warn_of_missing_dot,
)
from aspen.cli.zone_options import (
    DefaultTtl,
    Name,
    Notify,
    QueryAcl,
    TransferAcl,
    TransferKey,
    UpdateAcl,
    UpdateKey,
    ZoneConsistency,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aspen.client import NodeClient

app = new_app("Authored zones.")
app.add_typer(zone_key.app, name="key")

_RECORD_HELP = "A record to begin with, as in a master file: 'www 300 A 192.0.2.1'."


@app.command()
def create(
    name: Name,
    nameserver: Annotated[
        list[str],
        typer.Option(
            "--ns",
            metavar="NAME",
            help="A nameserver (repeatable); relative to the zone without a final dot.",
            callback=name_options,
        ),
    ],
    responsible: Annotated[
        str, typer.Option(metavar="NAME", help="Mail address of the SOA, as a name.", callback=name_argument)
    ] = "hostmaster",
    record: Annotated[list[str] | None, typer.Option(metavar="RECORD", help=_RECORD_HELP)] = None,
    default_ttl: DefaultTtl = None,
    zone_consistency: ZoneConsistency = None,
    query_acl: QueryAcl = None,
    transfer_acl: TransferAcl = None,
    transfer_key: TransferKey = None,
    update_acl: UpdateAcl = None,
    update_key: UpdateKey = None,
    notify: Notify = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Create a zone with SOA, NS and the records given."""
    settings = settings_of(
        default_ttl_s=default_ttl,
        consistency=zone_consistency,
        query_acl=query_acl,
        transfer_acl=transfer_acl,
        transfer_keys=transfer_key,
        update_acl=update_acl,
        update_keys=update_key,
        notify=notify,
    )
    new: dict[str, Any] = {
        "name": name,
        "nameservers": nameserver,
        "responsible": responsible,
        "records": local(as_json, lambda: [_record(text, settings) for text in record or ()]),
        "settings": settings,
    }
    zone = talk(addr, token, as_json, lambda client: _zones(client).create(new))
    _print_zone(zone, as_json, f"created {zone['name']}")
    of_records = (name_in_data(each["type"], data) for each in new["records"] for data in each["data"])
    for each in (*nameserver, responsible, *of_records):
        warn_of_missing_dot(each, zone["name"])


@app.command(name="list")
def list_zones(
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """List all zones."""
    zones = talk(addr, token, as_json, lambda client: _zones(client).list_all(consistency))
    if as_json:
        print_json({"zones": zones})
        return
    rows = [
        (
            zone["name"],
            str(zone["serial"]),
            str(zone["records"]),
            "" if zone["settings"]["enabled"] else "disabled",
        )
        for zone in zones
    ]
    print_table(None, ("zone", "serial", "records", ""), rows)


@app.command()
def show(
    name: Name,
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Show a zone's serial and settings. Exits 3 if there is none."""
    _print_zone(talk(addr, token, as_json, lambda client: _zones(client).show(name, consistency)), as_json)


@app.command()
def configure(
    name: Name,
    enabled: Annotated[
        bool | None, typer.Option("--enable/--disable", help="A disabled zone is as if it were not there.")
    ] = None,
    default_ttl: DefaultTtl = None,
    zone_consistency: ZoneConsistency = None,
    query_acl: QueryAcl = None,
    transfer_acl: TransferAcl = None,
    transfer_key: TransferKey = None,
    update_acl: UpdateAcl = None,
    update_key: UpdateKey = None,
    notify: Notify = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Change settings of a zone; those not named stay. A list is replaced whole ('' empties it)."""
    settings = settings_of(
        enabled=enabled,
        default_ttl_s=default_ttl,
        consistency=zone_consistency,
        query_acl=query_acl,
        transfer_acl=transfer_acl,
        transfer_keys=transfer_key,
        update_acl=update_acl,
        update_keys=update_key,
        notify=notify,
    )
    zone = talk(addr, token, as_json, lambda client: _zones(client).configure(name, settings))
    _print_zone(zone, as_json)


@app.command()
def delete(name: Name, as_json: Json = False, addr: Addrs = None, token: Token = None) -> None:
    """Delete a zone and its records; zones below it stay. Exits 3 if there is none."""
    done = talk(addr, token, as_json, lambda client: _zones(client).delete(name))
    _print_changed(done, as_json, f"deleted {done['zone']} and its {done['changed']} records")


@app.command(name="import")
def import_zone(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A master file; - is standard input.")],
    replace: Annotated[
        bool, typer.Option("--replace/--no-replace", help="Whether a zone that exists may be replaced.")
    ] = True,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Make a master file the content of a zone. All of it at once, on every node, or none of it."""
    data = local(as_json, lambda: sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes())

    async def action(client: NodeClient) -> dict[str, Any]:
        return await _import(client, name, data, replace, shown=sys.stderr.isatty() and not as_json)

    done = talk(addr, token, as_json, action)
    _print_changed(
        done, as_json, f"imported {done['changed']} records into {done['zone']}, serial {done['serial']}"
    )


@app.command()
def export(
    name: Name,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write it; - is standard output.")
    ] = Path("-"),
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Write a zone as a master file. Exits 3 if there is none."""
    data = talk(addr, token, as_json, lambda client: _zones(client).export(name, consistency))
    if str(file) != "-":
        local(as_json, lambda: file.write_bytes(data))
        if as_json:
            print_json({"zone": name, "file": str(file), "bytes": len(data)})
    elif as_json:
        print_json({"zone": name, "master_file": data.decode()})
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _zones(client: NodeClient) -> Any:
    from aspen.client import NodeZones

    return NodeZones(client)


async def _import(
    client: NodeClient, name: str, data: bytes, replace: bool, *, shown: bool
) -> dict[str, Any]:
    """Send the file, and show how many of its records the cluster has taken in."""
    import asyncio

    from aspen.errors import ClientError
    from aspen.limits import CLIENT_IMPORT_BYTES, CLIENT_PROGRESS_MS

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), CLIENT_IMPORT_BYTES):
            yield data[start : start + CLIENT_IMPORT_BYTES]

    sending = asyncio.ensure_future(_zones(client).bring_in(name, pieces(), replace=replace))
    if shown:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            # Most lines are records: the last look corrects what is not.
            bar = progress.add_task("records", total=max(1, data.count(b"\n")))
            while not sending.done():
                await asyncio.wait((sending,), timeout=CLIENT_PROGRESS_MS / 1_000)
                try:
                    progress.update(bar, completed=await _zones(client).imported_so_far(name))
                except ClientError:
                    pass  # the import's own answer tells
    done: dict[str, Any] = await sending
    return done


def _record(text: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A record of a master file, as the node takes it: the name, TTL, type and data told apart."""
    from aspen.errors import InputError
    from aspen.limits import ZONE_TTL_DEFAULT_S

    words = text.split(None, 3)
    ttl = settings.get("default_ttl_s", ZONE_TTL_DEFAULT_S)
    if len(words) >= 2 and words[1].isdigit():
        ttl = int(words.pop(1))
        words = " ".join(words).split(None, 2)
    else:
        words = text.split(None, 2)
    if len(words) == 3 and words[1].upper() == "IN":
        words = [words[0], *words[2].split(None, 1)]
    if len(words) != 3:
        raise InputError(f"a record is written: name [TTL] [IN] type data, not {text!r}")
    data = ascii_data(words[1], words[2])
    return {"name": ascii_name(words[0]), "type": words[1], "ttl": ttl, "data": [data]}


def _print_zone(zone: dict[str, Any], as_json: bool, first: str = "") -> None:
    if as_json:
        print_json(zone)
        return
    if first:
        print(first)
    rows = [("serial", str(zone["serial"])), ("records", str(zone["records"]))]
    for name, value in zone["settings"].items():
        shown = ", ".join(map(str, value)) or "–" if isinstance(value, list) else str(value).lower()
        rows.append((name, shown))
    print_table(None if first else zone["name"], ("setting", "value"), rows)
    for key in zone.get("missing_keys", ()):
        print(
            f"warning: zone {zone['name']} names the TSIG key {key}, which is not there: nobody can sign "
            f"with it until you `aspen zone key add {key.rstrip('.')}`",
            file=sys.stderr,
        )


def _print_changed(done: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print_json(done)
    else:
        print(text)
