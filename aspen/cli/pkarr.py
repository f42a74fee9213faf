"""`aspen pkarr`: keys, and the signed records published under them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aspen.cli.common import DEFAULT_ADDR, Addr, Json, Token, local, new_app, print_json, printable, talk

if TYPE_CHECKING:
    from aspen.client import NodeClient
    from aspen.identity import Identity
    from aspen.pkarr.packet import SignedPacket

app = new_app("Keys, and the signed records published under them.")

KeyFile = Annotated[
    Path, typer.Option("--key", metavar="FILE", help="Secret key: 64 hexadecimal digits in a file.")
]


@app.command()
def keygen(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write the new secret key (mode 0600).")
    ],
    as_json: Json = False,
) -> None:
    """Make a new key and print its public half. Never overwrites a file."""

    def action() -> Identity:
        from aspen.errors import AspenError
        from aspen.identity import Identity

        identity = Identity.generate()
        try:
            identity.save(file)
        except FileExistsError:
            raise AspenError(f"{file} exists already; a key is not overwritten") from None
        return identity

    _print_key(local(as_json, action), as_json)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A secret key file.")],
    as_json: Json = False,
) -> None:
    """Print the public half of a key."""

    def action() -> Identity:
        from aspen.identity import Identity

        return Identity.load(file)

    _print_key(local(as_json, action), as_json)


@app.command()
def publish(
    records: Annotated[
        list[str],
        typer.Argument(
            metavar="RECORD...",
            help="Records as dig prints them, names relative to the key: '_iroh TXT \"relay=https://…\"', "
            "'@ 60 A 192.0.2.1'.",
        ),
    ],
    key: KeyFile,
    ttl: Annotated[
        int, typer.Option(min=0, max=604_800, help="TTL of records that give none, in seconds.")
    ] = 30,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the payload here instead, for `curl -X PUT --data-binary @FILE`."
        ),
    ] = None,
    as_json: Json = False,
    addr: Addr = DEFAULT_ADDR,
    token: Token = None,
) -> None:
    """Sign RECORDs with the key and publish them; they replace what the key published before.

    The key file is made if it does not exist.
    """
    packet, made = local(as_json, lambda: _sign(key, records, ttl))
    if made and not as_json:
        print(f"made a new key: {key} (keep it secret)", file=sys.stderr)
    where: dict[str, Any] = {}
    if out is not None:
        local(as_json, lambda: out.write_bytes(packet.payload))
    else:

        async def action(client: NodeClient) -> dict[str, Any]:
            await client.pkarr_put(packet.z32, packet.payload)
            return await _where_dns_answers(client)

        where = talk(addr, token, as_json, action)
    dig = _dig_command(packet.z32, records[0], addr, where)
    _print_published(packet, dig, addr, out, as_json)


@app.command()
def resolve(
    public_key: Annotated[
        str, typer.Argument(metavar="KEY", help="The public key, 52 z-base-32 characters.")
    ],
    as_json: Json = False,
    addr: Addr = DEFAULT_ADDR,
    token: Token = None,
) -> None:
    """Fetch what KEY published, verify the signature, and print the records. Exits 3 if there is nothing."""

    async def action(client: NodeClient) -> SignedPacket:
        from aspen.pkarr.packet import SignedPacket, parse_key

        key = parse_key(public_key)
        return SignedPacket.parse(key, await client.pkarr_get(public_key))

    packet = talk(addr, token, as_json, action)
    lines = local(as_json, lambda: _records_of(packet))
    if as_json:
        print_json({"public_key": packet.z32, "timestamp_us": packet.timestamp_us, "records": lines})
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(packet.timestamp_us / 1_000_000))
    print(f"; {packet.z32}, signed {when}, signature verified")
    for line in lines:
        print(printable(line.expandtabs(1)))


def _sign(key_file: Path, records: list[str], ttl: int) -> tuple[SignedPacket, bool]:
    from aspen.identity import Identity
    from aspen.pkarr.packet import SignedPacket
    from aspen.pkarr.records import build_message

    made = not key_file.exists()
    identity = Identity.generate() if made else Identity.load(key_file)
    message = build_message(identity.endpoint_id, records, default_ttl=ttl)
    if made:  # only now that the records were understood
        identity.save(key_file)
    return SignedPacket.sign(identity, message, time.time_ns() // 1_000), made


async def _where_dns_answers(client: NodeClient) -> dict[str, Any]:
    """The node's DNS port and origins, if it tells: for whom may publish, status may be closed."""
    from aspen.errors import ClientError

    try:
        return (await client.status()).get("dns") or {}
    except ClientError:
        return {}


def _print_published(packet: SignedPacket, dig: str, addr: str, out: Path | None, as_json: bool) -> None:
    from aspen.client import parse_addr

    if as_json:
        print_json(
            {
                "public_key": packet.z32,
                "timestamp_us": packet.timestamp_us,
                "published": out is None,
                "dig": dig,
            }
        )
        return
    print(packet.z32)
    if out is not None:
        print(f"written to {out}; publish it with:")
        print(f"  curl -X PUT --data-binary @{out} {parse_addr(addr).origin()}/pkarr/{packet.z32}")
    else:
        print("published; ask any node for it:")
        print(f"  {dig}")


def _dig_command(z32: str, record: str, addr: str, where: dict[str, Any]) -> str:
    """How to ask the node for the record."""
    from aspen.client import parse_addr
    from aspen.config import DEFAULT_DNS_PORT, DEFAULT_ORIGIN

    owner, *rest = record.split()
    name = z32 if owner == "@" else f"{owner}.{z32}"
    # Between the owner and the type there may be a TTL and a class.
    kind = next((word.upper() for word in rest if not word.isdigit() and word.upper() != "IN"), "ANY")
    origin = (where.get("origins") or [DEFAULT_ORIGIN])[0].strip(".")
    full_name = f"{name}.{origin}" if origin else f"{name}."
    return f"dig @{parse_addr(addr).host} -p {where.get('port', DEFAULT_DNS_PORT)} {full_name} {kind}"


def _records_of(packet: SignedPacket) -> list[str]:
    from aspen.pkarr.records import format_message

    return format_message(packet.message)


def _print_key(identity: Identity, as_json: bool) -> None:
    if as_json:
        print_json({"public_key": identity.z32, "public_key_hex": identity.endpoint_id.hex()})
    else:
        print(identity.z32)  # alone when piped, so that $(…) is the key
        if sys.stdout.isatty():
            print(f"hexadecimal: {identity.endpoint_id.hex()}")
