"""`aspen pkarr`: keys, and the signed records published under them."""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aspen.cli.common import (
    Addrs,
    Json,
    Token,
    addresses,
    fail,
    local,
    new_app,
    print_json,
    printable,
    talk,
)
from aspen.cli.pkarr_show import show_file

if TYPE_CHECKING:
    from yarl import URL

    from aspen.client import NodeClient
    from aspen.identity import Identity
    from aspen.pkarr.packet import SignedPacket
    from aspen.pkarr.publisher import Target
    from aspen.pkarr.resolver import Resolution

app = new_app("Keys, and the signed records published under them.")

KeyFile = Annotated[
    Path, typer.Option("--key", metavar="FILE", help="Secret key: 64 hexadecimal digits in a file.")
]
Relays = Annotated[
    list[str] | None,
    typer.Option(
        "--relay",
        metavar="URL",
        help="A pkarr relay, instead of the node at --addr: https://dns.iroh.link/pkarr. May be repeated.",
    ),
]
Dht = Annotated[bool, typer.Option("--dht", help="The BitTorrent DHT, instead of the node at --addr.")]
Bootstrap = Annotated[
    list[str] | None,
    typer.Option("--bootstrap", metavar="HOST:PORT", help="A node of the DHT to begin at. May be repeated."),
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
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A secret key file, or a packet; - reads a packet from stdin."),
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="The public key that a packet should verify under."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the public half of a key; or a packet field by field, with what is wrong with it.

    A packet is what `publish --out` writes and a relay's GET returns: signature, timestamp, DNS message.
    Exits 1 if something is wrong.
    """
    identity = local(as_json, lambda: show_file(file, key, as_json))
    if identity is not None:
        _print_key(identity, as_json)


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
    relay: Relays = None,
    dht: Dht = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Sign RECORDs with the key and publish them; they replace what the key published before.

    The key file is made if it does not exist. With several relays and the DHT, each is told; exits 1 if
    one of them didn't take the packet.
    """
    packet, made = local(as_json, lambda: _sign(key, records, ttl))
    if made and not as_json:
        print(f"made a new key: {key} (keep it secret)", file=sys.stderr)
    if out is not None:
        local(as_json, lambda: out.write_bytes(packet.payload))
    elif relay or dht:
        _tell_all(packet, relay or [], dht, bootstrap, as_json)
        return
    where: dict[str, Any] = {}
    if out is None:

        async def action(client: NodeClient) -> tuple[URL, dict[str, Any]]:
            await client.pkarr_put(packet.z32, packet.payload)
            return client.base, await _where_dns_answers(client)

        node, where = talk(addr, token, as_json, action)
    else:
        from aspen.client import parse_addr

        node = local(as_json, lambda: parse_addr(addresses(addr)[0]))
    dig = _dig_command(packet.z32, records[0], node, where)
    _print_published(packet, dig, node, out, as_json)


@app.command()
def delete(
    key: KeyFile,
    relay: Relays = None,
    dht: Dht = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Unpublish: sign a packet without records, which takes the place of the key's last one."""
    packet = local(as_json, lambda: _sign_empty(key))
    if relay or dht:
        _tell_all(packet, relay or [], dht, bootstrap, as_json)
        return

    async def action(client: NodeClient) -> None:
        await client.pkarr_put(packet.z32, packet.payload)

    talk(addr, token, as_json, action)
    if as_json:
        print_json({"public_key": packet.z32, "timestamp_us": packet.timestamp_us, "deleted": True})
    else:
        print(f"{packet.z32} has no records any more")


@app.command()
def resolve(
    public_key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="The public key: 52 z-base-32 characters, or 64 hexadecimal digits."
        ),
    ],
    relay: Relays = None,
    dht: Dht = False,
    bootstrap: Bootstrap = None,
    dns: Annotated[
        str | None,
        typer.Option(
            "--dns",
            metavar="SERVER",
            help="A DNS server (host or host:port, or `system`), for what _iroh says; it can't be verified.",
        ),
    ] = None,
    origin: Annotated[
        str, typer.Option("--origin", metavar="NAME", help="The name that keys stand under, for --dns.")
    ] = "dns.iroh.link",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Find what KEY published, verify the signature, and print the records. Exits 3 if there is nothing.

    Of several relays and the DHT, the most recent packet counts.
    """
    key = local(as_json, lambda: _public_key(public_key))
    if relay or dht or dns is not None:
        found = local(as_json, lambda: _look_everywhere(key, relay or [], dht, bootstrap, dns, origin))
        _print_resolution(found, key, as_json)
        return

    async def action(client: NodeClient) -> SignedPacket:
        from aspen.pkarr.packet import SignedPacket
        from aspen.z32 import encode_key

        return SignedPacket.parse(key, await client.pkarr_get(encode_key(key)))

    _print_packet(talk(addr, token, as_json, action), "", as_json)


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


def _sign_empty(key_file: Path) -> SignedPacket:
    from aspen.identity import Identity
    from aspen.pkarr.packet import SignedPacket
    from aspen.pkarr.records import build_message

    identity = Identity.load(key_file)
    return SignedPacket.sign(identity, build_message(identity.endpoint_id, []), time.time_ns() // 1_000)


def _public_key(text: str) -> bytes:
    from aspen.identity import parse_endpoint_id

    return parse_endpoint_id(text)


# --- other places than the node ---------------------------------------------------------------


async def _open(
    stack: AsyncExitStack, relays: list[str], dht: bool, bootstrap: list[str] | None
) -> list[Any]:
    """Relays and the DHT, as targets and sources, open until the stack is."""
    from aspen.pkarr.dht import DhtClient, parse_bootstrap
    from aspen.pkarr.relay_client import RelayClient
    from aspen.pkarr.resolver import DhtSource

    opened: list[Any] = [await stack.enter_async_context(RelayClient(url)) for url in relays]
    if dht:
        client = DhtClient(parse_bootstrap(bootstrap))
        await client.start()
        stack.push_async_callback(client.close)
        opened.append(DhtSource(client))
    return opened


def _tell_all(
    packet: SignedPacket, relays: list[str], dht: bool, bootstrap: list[str] | None, as_json: bool
) -> None:
    """Publish everywhere; say what became of it; exit 1 unless all took it."""
    import asyncio

    from aspen.errors import NetworkError

    async def tell(target: Target) -> str:
        try:
            newer = await target.publish(packet)
        except NetworkError as error:
            return str(error)
        return "" if newer is None else f"a more recent packet is there ({newer.timestamp_us})"

    async def run() -> dict[str, str]:
        async with AsyncExitStack() as stack:
            targets = await _open(stack, relays, dht, bootstrap)
            said = await asyncio.gather(*(tell(target) for target in targets))
            return {target.name: each for target, each in zip(targets, said, strict=True)}

    said = local(as_json, lambda: asyncio.run(run()))
    if as_json:
        places = [
            {"name": name, "published": not problem, "reason": problem} for name, problem in said.items()
        ]
        print_json({"public_key": packet.z32, "timestamp_us": packet.timestamp_us, "places": places})
    else:
        print(packet.z32)
        for name, problem in said.items():
            print(f"{name}: {problem or 'published'}")
    if any(said.values()):
        raise typer.Exit(1)


def _look_everywhere(
    key: bytes, relays: list[str], dht: bool, bootstrap: list[str] | None, server: str | None, origin: str
) -> Resolution:
    import asyncio

    from aspen.dns.client import PlainDns, parse_server
    from aspen.pkarr.dns_client import DnsSource
    from aspen.pkarr.resolver import Resolver

    async def run() -> Resolution:
        async with AsyncExitStack() as stack:
            sources = await _open(stack, relays, dht, bootstrap)
            servers = [parse_server(server)] if server not in (None, "system") else []
            dns = [DnsSource(origin, PlainDns(servers))] if server is not None else []
            return await Resolver(sources, dns).resolve(key)

    return asyncio.run(run())


# --- what is printed --------------------------------------------------------------------------


def _print_resolution(found: Resolution, key: bytes, as_json: bool) -> None:
    from aspen.errors import ClientNotFound, ClientUnavailable
    from aspen.z32 import encode_key

    if not as_json or found.packet is None:
        for failure in found.failures:
            print(f"aspen: {failure}", file=sys.stderr)
    if found.packet is not None:
        _print_packet(found.packet, found.source, as_json)
    elif found.info is not None:
        lines = found.info.records()
        if as_json:
            print_json(
                {"public_key": encode_key(key), "verified": False, "source": found.source, "records": lines}
            )
            return
        print(f"; {encode_key(key)} by {found.source}, not verified: DNS has no signatures")
        for line in lines:
            print(printable(line))
    elif found.failures:
        fail(ClientUnavailable(0, "unreachable", "nobody could be asked, or not all of them"), as_json)
    else:
        fail(ClientNotFound(404, "not_found", "nobody has a packet of this key"), as_json)


def _print_packet(packet: SignedPacket, source: str, as_json: bool) -> None:
    from aspen.pkarr.records import format_message

    lines = local(as_json, lambda: format_message(packet.message))
    if as_json:
        said: dict[str, Any] = {
            "public_key": packet.z32,
            "timestamp_us": packet.timestamp_us,
            "records": lines,
        }
        print_json({**said, "verified": True, **({"source": source} if source else {})})
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(packet.timestamp_us / 1_000_000))
    by = f" by {source}" if source else ""
    print(f"; {packet.z32}{by}, signed {when}, signature verified")
    for line in lines:
        print(printable(line.expandtabs(1)))


async def _where_dns_answers(client: NodeClient) -> dict[str, Any]:
    """The node's DNS port and origins, if it tells: for whom may publish, status may be closed."""
    from aspen.errors import ClientError

    try:
        return (await client.status()).get("dns") or {}
    except ClientError:
        return {}


def _print_published(packet: SignedPacket, dig: str, node: URL, out: Path | None, as_json: bool) -> None:
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
        print(f"  curl -X PUT --data-binary @{out} {node.origin()}/pkarr/{packet.z32}")
    else:
        print("published; ask any node for it:")
        print(f"  {dig}")


def _dig_command(z32: str, record: str, node: URL, where: dict[str, Any]) -> str:
    """How to ask the node for the record."""
    from aspen.config import DEFAULT_DNS_PORT, DEFAULT_ORIGIN

    owner, *rest = record.split()
    name = z32 if owner == "@" else f"{owner}.{z32}"
    # Between the owner and the type there may be a TTL and a class.
    kind = next((word.upper() for word in rest if not word.isdigit() and word.upper() != "IN"), "ANY")
    origin = (where.get("origins") or [DEFAULT_ORIGIN])[0].strip(".")
    full_name = f"{name}.{origin}" if origin else f"{name}."
    return f"dig @{node.host} -p {where.get('port', DEFAULT_DNS_PORT)} {full_name} {kind}"


def _print_key(identity: Identity, as_json: bool) -> None:
    if as_json:
        print_json({"public_key": identity.z32, "public_key_hex": identity.endpoint_id.hex()})
    else:
        print(identity.z32)  # alone when piped, so that $(…) is the key
        if sys.stdout.isatty():
            print(f"hexadecimal: {identity.endpoint_id.hex()}")
