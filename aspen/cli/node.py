"""`aspen node run` and `aspen-node`: one node in this process, until a signal or its own failure."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from aspen.cli.common import EXIT_CODES, Exit, exit_code, local, new_app
from aspen.errors import AspenError, ConfigError, InvariantViolation, JoinError

if TYPE_CHECKING:
    from aspen.config import ClusterBootstrapConfig
    from aspen.config.sources import LoadedConfig
    from aspen.node import Node
    from aspen.systemd import Manager

app = new_app("Run a node.")

PID_FILE: Final = "node.pid"
PARENT_VARIABLE: Final = "ASPEN_DEV_PARENT"
"""Set by `aspen dev`: end when standard input does, for then the parent is gone."""


def _flag(help_text: str, metavar: str | None = None) -> Any:
    # No `envvar` here: the environment ranks below the TOML file, and `load_config` reads it.
    return typer.Option(help=help_text, metavar=metavar)


@app.callback()
def _group() -> None:
    """Keeps `run` a subcommand while it is the only one."""


@app.command(epilog=EXIT_CODES)
def run(
    config: Annotated[Path | None, _flag("TOML file of settings.", "FILE")] = None,
    node_id: Annotated[int | None, _flag("Id of this node in the cluster, from 1.")] = None,
    data_dir: Annotated[Path | None, _flag("Where the node keeps its state.", "DIR")] = None,
    host: Annotated[str | None, _flag("Address that DNS and QUIC bind. [DNS: 127.0.0.1, QUIC: all]")] = None,
    cookie: Annotated[
        str | None, _flag("The cluster's secret; ASPEN_COOKIE keeps it out of the process list.")
    ] = None,
    cookie_file: Annotated[
        Path | None, _flag("The cookie in a file; further lines are cookies accepted too.", "FILE")
    ] = None,
    dns_port: Annotated[int | None, _flag("DNS port, UDP and TCP. [5300]")] = None,
    http_addr: Annotated[str | None, _flag("HTTP listener. [127.0.0.1:8080]", "HOST:PORT")] = None,
    admin_addr: Annotated[
        str | None, _flag("A listener of their own for the admin routes.", "HOST:PORT")
    ] = None,
    admin_token: Annotated[
        str | None, _flag("Bearer token of the admin routes; better as ASPEN_ADMIN_TOKEN.")
    ] = None,
    admin_token_file: Annotated[
        Path | None, _flag("The admin token in a file; further lines are tokens accepted too.", "FILE")
    ] = None,
    quic_port: Annotated[int | None, _flag("UDP port for the other nodes. [7300]")] = None,
    peers: Annotated[
        list[str] | None,
        _flag("Another member; repeat it, or separate by commas.", "ID@ENDPOINT[@HOST:PORT]"),
    ] = None,
    ticket: Annotated[
        str | None,
        _flag("Join the cluster of a ticket (`aspen cluster ticket`); better as ASPEN_TICKET."),
    ] = None,
    learner: Annotated[
        bool, typer.Option("--learner", help="Join without a vote, as a read replica.")
    ] = False,
    auto_cluster: Annotated[
        int | None,
        _flag("Found a cluster with so many nodes that say the same and find each other.", "NODES"),
    ] = None,
    show_joining: Annotated[bool, typer.Option("--show-joining", hidden=True)] = False,
    init: Annotated[
        bool, typer.Option("--init", help="Found a cluster of this node and its peers, unless it has one.")
    ] = False,
    profile: Annotated[str | None, _flag("Timings for a fast network.", "default|lan")] = None,
    heartbeat_interval_ms: Annotated[int | None, _flag("How often a leader is heard. [500]")] = None,
    election_timeout_min_ms: Annotated[
        int | None, _flag("Silence before an election, at least. [1500]")
    ] = None,
    election_timeout_max_ms: Annotated[
        int | None, _flag("Silence before an election, at most. [3000]")
    ] = None,
    origin: Annotated[
        list[str] | None,
        _flag("Answer names under this origin; repeat it for several. [aspen.local]", "NAME"),
    ] = None,
    workers: Annotated[int | None, _flag("UDP worker processes; 0 answers in the node's own. [1]")] = None,
    relay_url: Annotated[
        str | None, _flag("A relay, for nodes that this one can't reach directly.", "URL")
    ] = None,
    enable_dns_discovery: Annotated[
        bool, typer.Option("--enable-dns-discovery", help="Ask a DNS server where the cluster's nodes are.")
    ] = False,
    dns_discovery_url: Annotated[
        str | None, _flag("Which: dns://host:port, https://host/dns-query. [https://dns.iroh.link]", "URL")
    ] = None,
    enable_pkarr: Annotated[
        bool,
        typer.Option("--enable-pkarr", help="Publish this node's address under its key, and find peers so."),
    ] = False,
    pkarr_relay_url: Annotated[str | None, _flag("pkarr relay to publish at.", "URL")] = None,
    disable_mdns: Annotated[bool, typer.Option("--disable-mdns", help="No multicast DNS.")] = False,
    disable_gossip: Annotated[
        bool, typer.Option("--disable-gossip", help="Neither tell nor hear of nodes by gossip.")
    ] = False,
    log_format: Annotated[str | None, _flag("[auto]", "auto|console|json")] = None,
    log_level: Annotated[str | None, _flag("[info]", "debug|info|warning|error")] = None,
) -> None:
    """Run one node until Ctrl-C. Settings: defaults < ASPEN_* variables < TOML file < flags."""
    flags: dict[str, Any] = {
        "node_id": node_id,
        "data_dir": str(data_dir) if data_dir is not None else None,
        "host": host,
        "cookie": cookie,
        "cookie_file": str(cookie_file) if cookie_file is not None else None,
        "dns_port": dns_port,
        "http_addr": http_addr,
        "admin_addr": admin_addr,
        "admin_token": admin_token,
        "admin_token_file": str(admin_token_file) if admin_token_file is not None else None,
        "quic_port": quic_port,
        "peers": ",".join(peers) if peers else None,
        "ticket": ticket,
        "learner": learner or None,
        "auto_cluster": auto_cluster,
        "init": init or None,
        "profile": profile,
        "heartbeat_interval_ms": heartbeat_interval_ms,
        "election_timeout_min_ms": election_timeout_min_ms,
        "election_timeout_max_ms": election_timeout_max_ms,
        "dns_server.origins": ",".join(origin) if origin else None,
        "dns_server.workers": workers,
        "iroh.relay_url": relay_url,
        "iroh.enable_dns_discovery": enable_dns_discovery or None,
        "iroh.dns_discovery_url": dns_discovery_url,
        "iroh.enable_pkarr": enable_pkarr or None,
        "iroh.pkarr_relay_url": pkarr_relay_url,
        "iroh.enable_mdns": False if disable_mdns else None,
        "iroh.enable_gossip": False if disable_gossip else None,
        "log_format": log_format,
        "log_level": log_level,
    }
    local(False, lambda: run_node(config, flags, show_joining=show_joining))


def run_node(config_file: Path | None, flags: dict[str, Any], *, show_joining: bool = False) -> None:
    """Load the configuration, run the node, return when it was asked to stop.

    With `show_joining`, standard output tells how far a node has come that joins, and the log less.
    """
    from aspen import logs
    from aspen.config.security import apply_security_defaults, security_report
    from aspen.config.sources import NODE_DEFAULTS, load_config

    defaults = {**NODE_DEFAULTS, **({"log_level": "warning"} if show_joining else {})}

    def load() -> LoadedConfig:
        loaded = load_config(config_file=config_file, environment=os.environ, flags=flags, defaults=defaults)
        logs.never_show(_secrets(loaded.config))
        return loaded

    loaded = load()
    fresh = not loaded.config.data_path.exists()
    warnings = [*loaded.validate(), *apply_security_defaults(loaded.config).values()]
    if show_joining and fresh:  # what was here before may be a moment from its end
        _check_ports(loaded.config)
    logs.configure(loaded.config.log_format, loaded.config.log_level)

    import structlog

    structlog.contextvars.bind_contextvars(node=loaded.config.node_id)
    log = structlog.get_logger("aspen.cli")
    for text in warnings:
        log.warning("configuration", says=text)
    log.info("security", **security_report(loaded.config, loaded.origin))

    import asyncio

    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            again = runner.run(_serve(loaded.config, lambda: load().config, show_joining))
    except (AspenError, OSError) as error:
        if isinstance(error, InvariantViolation):
            log.exception("node failed")
            raise typer.Exit(Exit.FAILED) from None
        if fresh and loaded.config.ticket and _never_let_in(error, loaded.config.data_path):
            # Nobody knows the key in there: the next try may have another.
            shutil.rmtree(loaded.config.data_path, ignore_errors=True)
        if show_joining and isinstance(error, JoinError):
            raise
        log.error("node failed", reason=str(error))
        code = exit_code(error) if isinstance(error, AspenError) else Exit.FAILED
        raise typer.Exit(code) from None
    except Exception:  # nobody has foreseen it: the log says where
        log.exception("node failed")
        raise typer.Exit(Exit.FAILED) from None
    if again:
        log.info("starting again")
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  this very command


def _check_ports(config: ClusterBootstrapConfig) -> None:
    """Raise `ConfigError` if a port can't be bound, before a cluster lets in what then can't start."""
    from aspen.cli.doctor_machine import port, wanted_ports

    found = [finding for finding in map(port, wanted_ports(config)) if finding.level == "problem"]
    if found:
        raise ConfigError(*(f"{finding.says}: {finding.do}" for finding in found))


def _secrets(config: ClusterBootstrapConfig) -> Iterator[str]:
    from aspen.config import SECRET_SETTINGS, settings

    for path, value, _default in settings(config):
        if path in SECRET_SETTINGS and value is not None:
            yield from [value] if isinstance(value, str) else value


def _never_let_in(error: AspenError | OSError, data_dir: Path) -> bool:
    """Whether a node that was to join is certainly no member."""
    from aspen.config.joined import JOINED_FILE

    refused = isinstance(error, ConfigError) or (isinstance(error, JoinError) and error.code != "unanswered")
    return refused and not (data_dir / JOINED_FILE).exists()


async def _serve(
    config: ClusterBootstrapConfig, load: Callable[[], ClusterBootstrapConfig], show_joining: bool
) -> bool:
    """Start the node, wait for a signal or its end, stop it. On SIGHUP, `load` the configuration again.

    True if the node wants to be started again. Raises `AspenError` if it could not start or ended by itself.
    """
    import asyncio
    import gc

    import structlog

    from aspen.cli.node_service import patience, report
    from aspen.node import bootstrap_node
    from aspen.node.enter import log_report
    from aspen.systemd import GivenSockets, Manager

    log = structlog.get_logger("aspen.cli")
    manager = Manager.from_environment(os.environ, os.getpid())
    sockets = GivenSockets.from_environment(os.environ, os.getpid())
    # What the imports have made stays for good. Looking through it for garbage again and again would
    # hold the node up for 50 ms of processor time each time, more than a heartbeat takes to be missed.
    gc.collect()
    gc.freeze()
    stop = asyncio.Event()
    remove_handlers = stop_on_signals(stop)
    if os.environ.get(PARENT_VARIABLE):
        _stop_at_end_of_input(stop)
    running: list[Node] = []
    _reload_on_hangup(running, load, stop, manager)
    on_join = _show if show_joining else log_report
    starting = asyncio.ensure_future(bootstrap_node(config, sockets, on_join))
    stopping = asyncio.ensure_future(stop.wait())
    with patience(manager):
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()  # bootstrap_node undoes what it has started
        await asyncio.gather(starting, return_exceptions=True)
        stopping.cancel()
        return False
    node = await starting
    async with node:
        pid_file = config.data_path / PID_FILE
        write_pid(pid_file, os.getpid())
        running.append(node)
        log.info(
            "node started",
            pid=os.getpid(),
            dns=_address(node.dns_address),
            http=_address(node.http.address),
            https=_address(node.http.https_address),
            quic=f"{config.quic_host}:{config.quic_port}",
            data_dir=str(config.data_path),
        )
        if show_joining:
            dns, http = _address(node.dns_address), _address(node.http.address)
            _show(f"running: DNS {dns}, HTTP http://{http}; Ctrl-C ends it, the same command starts it again")
        reporting = asyncio.create_task(report(manager, node), name="service manager")
        ended = asyncio.ensure_future(node.wait_closed())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        by_itself = ended.done()
        running.clear()
        stopping.cancel()
        ended.cancel()
        remove_handlers()  # a second signal ends the process at once
        log.info("node stopping", by_itself=by_itself)
        reporting.cancel()
        manager.stopping()
        with patience(manager):
            await node.shutdown()
    await asyncio.gather(ended, stopping, return_exceptions=True)
    remove_pid(pid_file, os.getpid())
    log.info("node stopped")
    if by_itself and node.rotation.wants_restart:
        return not manager.listens  # a service manager starts what ends, with the sockets it holds
    if by_itself:
        raise AspenError("the node stopped by itself; its log says why")
    return False


def _show(line: str) -> None:
    print(line, flush=True)


def _address(bound: tuple[str, int] | None) -> str:
    return "off" if bound is None else f"{bound[0]}:{bound[1]}"


def stop_on_signals(stop: Any) -> Callable[[], None]:
    """Set the event on SIGINT and SIGTERM. Returns how to give them back."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)

    def remove() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    return remove


def _reload_on_hangup(
    running: Sequence[Node], load: Callable[[], ClusterBootstrapConfig], stop: Any, manager: Manager
) -> None:
    """SIGHUP: read the configuration again; but if it came because the terminal is gone, stop."""
    import asyncio
    import signal
    import sys

    import structlog

    from aspen.node.reload import reload

    log = structlog.get_logger("aspen.cli")
    has_terminal = sys.stdin is not None and sys.stdin.isatty()

    def hung_up() -> None:
        if has_terminal and not sys.stdin.isatty():
            stop.set()
            return
        for node in running:
            manager.reloading()
            try:
                taken_over, waiting, warnings = reload(node, load())
            except AspenError as error:
                log.error("configuration not reloaded", reason=str(error))
            else:
                for text in warnings:
                    log.warning("configuration", says=text)
                log.info("configuration reloaded", taken_over=taken_over, waits_for_restart=waiting)
            manager.ready()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)


def _stop_at_end_of_input(stop: Any) -> None:
    import asyncio
    import sys

    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 4_096):
            loop.remove_reader(descriptor)
            stop.set()

    loop.add_reader(descriptor, readable)


def write_pid(file: Path, pid: int) -> None:
    """Say which process the node is, if there is room on disk to say it."""
    try:
        file.write_text(f"{pid}\n", "ascii")
    except OSError as error:
        import structlog

        structlog.get_logger("aspen.cli").warning("no pid file", reason=str(error))


def remove_pid(file: Path, pid: int) -> None:
    """Take the file away, unless another process has written it since."""
    try:
        if file.read_text("ascii").strip() == str(pid):
            file.unlink()
    except OSError:
        pass  # already gone
