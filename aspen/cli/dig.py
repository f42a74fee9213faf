"""`aspen dig`: ask a node's DNS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aspen.cli.common import Addrs, Exit, Json, Token, local, print_json, printable, talk
from aspen.cli.names import name_argument

if TYPE_CHECKING:
    from aspen.client import NodeClient
    from aspen.dns.inspect import Reply

_WAIT_S = 3.0
_TRIES = 2


def dig(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The whole name.", callback=name_argument)],
    rrtype: Annotated[str, typer.Argument(metavar="TYPE", help="A, TXT, ANY, TYPE65280, …")] = "A",
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST[:PORT]", help="Where to ask; without it, the node's own DNS, as it tells."
        ),
    ] = None,
    tcp: Annotated[bool, typer.Option("--tcp", help="Ask by TCP at once.")] = False,
    short: Annotated[bool, typer.Option("--short", help="Print the answers' data only.")] = False,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Ask a node's DNS for NAME. Exits 3 if there is no such name or type, 1 if it is refused."""
    where = (
        local(as_json, lambda: _place(server)) if server is not None else talk(addr, token, as_json, _dns_of)
    )
    reply = local(as_json, lambda: _ask(where, name, rrtype, tcp))
    if as_json:
        print_json(reply.as_json())
    elif short:
        for record in reply.sections["answer"]:
            print(printable(record.split(" ", 4)[4]))
    else:
        for line in reply.lines():
            print(printable(line))
    if reply.rcode not in ("NOERROR", "NXDOMAIN"):
        raise typer.Exit(Exit.FAILED)
    if not reply.sections["answer"]:
        raise typer.Exit(Exit.NOT_FOUND)


async def _dns_of(client: NodeClient) -> tuple[str, int]:
    from aspen.errors import ClientUnavailable

    status = await client.status()
    if not status.get("dns"):
        raise ClientUnavailable(0, "no_dns", "the node does not serve DNS")
    return client.base.host or "127.0.0.1", int(status["dns"]["port"])


def _place(server: str) -> tuple[str, int]:
    """Where to ask, as an address. Raises `ConfigError`, and `ClientUnavailable` for a name of nobody."""
    import socket

    from aspen.config import parse_place
    from aspen.dns.client import DNS_PORT
    from aspen.errors import ClientUnavailable

    host, port = parse_place("--server", server, DNS_PORT)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4]
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, socket.gaierror) else "not the name of a host"
        raise ClientUnavailable(0, "unknown_host", f"--server: {host}: {why}") from None
    return str(found[0]), port


def _ask(where: tuple[str, int], name: str, rrtype: str, tcp: bool) -> Reply:
    import secrets

    from aspen.dns.inspect import build_query
    from aspen.dns.presentation import parse_name, type_number

    qtype = {"ANY": 255, "IXFR": 251, "AXFR": 252}.get(rrtype.upper()) or type_number(rrtype)
    message_id = secrets.randbits(16)
    query = build_query(message_id, parse_name(name, b"\0"), qtype)
    reply = None if tcp else _by_datagram(where, query, message_id)
    if reply is None or reply.truncated:
        reply = _by_stream(where, query)
    return reply


def _by_datagram(where: tuple[str, int], query: bytes, message_id: int) -> Reply:
    import socket

    from aspen.dns.inspect import read_reply
    from aspen.errors import ClientUnavailable, DnsWireError

    family = socket.getaddrinfo(*where, type=socket.SOCK_DGRAM)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_WAIT_S)
        sock.connect(where)
        for _ in range(_TRIES):
            try:
                sock.send(query)
                reply = read_reply(sock.recv(65_535))
            except (TimeoutError, ConnectionError, DnsWireError):
                continue
            if reply.message_id == message_id:
                return reply
    raise ClientUnavailable(0, "unreachable", f"no DNS answers at {where[0]} port {where[1]}")


def _by_stream(where: tuple[str, int], query: bytes) -> Reply:
    import socket

    from aspen.dns.inspect import read_reply
    from aspen.errors import ClientUnavailable

    try:
        with socket.create_connection(where, _WAIT_S) as sock, sock.makefile("rb") as stream:
            sock.sendall(len(query).to_bytes(2, "big") + query)
            size = int.from_bytes(stream.read(2), "big")
            return read_reply(stream.read(size))
    except (TimeoutError, ConnectionError) as error:
        reason = f"no DNS answers by TCP at {where[0]} port {where[1]}: {error}"
        raise ClientUnavailable(0, "unreachable", reason) from None
