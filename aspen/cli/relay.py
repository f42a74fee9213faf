"""`aspen relay`: carry the datagrams of nodes that can't reach each other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aspen.cli.common import local
from aspen.errors import ConfigError, IdentityError

if TYPE_CHECKING:
    from aspen.relay.access import Access
    from aspen.relay.hub import RelayLimits
    from aspen.tls.certificates import Certificates

_COOKIE_VARIABLE = "ASPEN_COOKIE"
_TOKEN_VARIABLE = "ASPEN_ADMIN_TOKEN"  # noqa: S105  its name
_DEFAULT_LISTEN = "127.0.0.1:3340"


def relay(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = _DEFAULT_LISTEN,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain (PEM): listen by HTTPS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    cookie_file: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="For nodes that know a cookie of this file, one a line; repeat it for more."
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="ENDPOINT", help="For the node with this endpoint id; repeat it for more."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="For everyone who proves an endpoint id.")] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="What nodes call this relay, as in its URL; repeat it for more. [the names in its "
            "certificate, and the address it is reached at]",
        ),
    ] = None,
    admin_addr: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to serve /metrics. [--listen, if that is loopback or there is a token]",
        ),
    ] = None,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Bearer tokens that open /metrics, one a line; or the variable ASPEN_ADMIN_TOKEN.",
        ),
    ] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="Nodes connected at one time. [1024]")] = None,
    mib_per_s: Annotated[float | None, typer.Option(min=0.01, help="From each node, at most. [4]")] = None,
    log_format: Annotated[Literal["auto", "console", "json"], typer.Option(help="Form of the log.")] = "auto",
) -> None:
    """Run a relay until Ctrl-C. It forwards what it can't read, and keeps nothing.

    Who may use it: nodes that know the cluster's cookie (the variable ASPEN_COOKIE, or --cookie-file), nodes
    named by --allow, or with --open everyone. One of these must be given.
    """
    from aspen import logs
    from aspen.config import LogFormat, LogLevel

    def run() -> None:
        access = _access(cookie_file, allow, open_, name)
        tokens = _tokens(admin_token_file)
        logs.configure(LogFormat(log_format), LogLevel.INFO)
        logs.never_show(tokens)
        _run(listen, admin_addr, access, _limits(clients, mib_per_s), _tls(tls_cert, tls_key), tokens)

    local(False, run)


def _access(
    cookie_files: list[Path] | None, allow: list[str] | None, open_: bool, names: list[str] | None
) -> Access:
    """Raises `ConfigError`."""
    from aspen.config.sources import read_secrets
    from aspen.identity import Cookies, parse_endpoint_id
    from aspen.logs import never_show
    from aspen.relay.access import COOKIE_CONTEXT, Access

    texts = [text for path in cookie_files or () for text in read_secrets("--cookie-file", path)]
    if os.environ.get(_COOKIE_VARIABLE):
        texts.append(os.environ[_COOKIE_VARIABLE])
    never_show(texts)
    authenticators = Cookies.of(texts).authenticators(COOKIE_CONTEXT) if texts else ()
    try:
        endpoint_ids = frozenset(parse_endpoint_id(text) for text in allow or ())
    except IdentityError as error:
        raise ConfigError(f"--allow: {error}") from None
    if not (texts or endpoint_ids or open_):
        raise ConfigError(
            f"say who may use this relay: {_COOKIE_VARIABLE} or --cookie-file for the nodes of a cluster, "
            "--allow for single ones, --open for everyone"
        )
    return Access(open_, endpoint_ids, authenticators, names or ())


def _tokens(file: Path | None) -> list[str]:
    """Raises `ConfigError`."""
    from aspen.config.sources import read_secrets

    if file is not None:
        return read_secrets("--admin-token-file", file)
    given = os.environ.get(_TOKEN_VARIABLE, "").strip()
    return [given] if given else []


def _tls(certificate: Path | None, key: Path | None) -> Certificates | None:
    """Raises `ConfigError`."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("--tls-cert and --tls-key belong together")
    from aspen.tls.certificates import Certificates
    from aspen.tls.sources import Files

    return Certificates(Files(certificate, key))


def _limits(clients: int | None, mib_per_s: float | None) -> RelayLimits:
    from aspen.limits import RELAY_BYTES_BURST, RELAY_BYTES_PER_S, RELAY_CLIENTS
    from aspen.ratelimit import Rate
    from aspen.relay.hub import RelayLimits

    per_s = RELAY_BYTES_PER_S if mib_per_s is None else mib_per_s * 1_048_576
    return RelayLimits(clients=clients or RELAY_CLIENTS, bytes_=Rate(per_s, RELAY_BYTES_BURST))


def _run(
    listen: str,
    admin_addr: str | None,
    access: Access,
    limits: RelayLimits,
    certificates: Certificates | None,
    tokens: list[str],
) -> None:
    """Serve until a signal. Raises `ConfigError`."""
    import asyncio

    import uvloop

    from aspen.cli.node import stop_on_signals
    from aspen.config import parse_address
    from aspen.relay.standalone import StandaloneRelay

    address = parse_address("--listen", listen)
    admin = None if admin_addr is None else parse_address("--admin-addr", admin_addr)

    async def serve() -> None:
        stop = asyncio.Event()
        remove_handlers = stop_on_signals(stop)
        relay = StandaloneRelay(access, limits, certificates, tokens)
        await relay.start(address, admin)
        if certificates is not None:
            certificates.start()
        await stop.wait()
        remove_handlers()  # a second signal ends the process at once
        await relay.close()
        if certificates is not None:
            await certificates.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
