"""`aspen doctor`: walk from the configuration to the last peer, and say what is wrong and what to do."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from aspen.cli.common import Addrs, Exit, Json, Token, addresses, local, print_json, print_table
from aspen.cli.findings import MARKS, Finding, ok, problem, skipped, warning

if TYPE_CHECKING:
    from aspen.config import ClusterBootstrapConfig
    from aspen.config.sources import LoadedConfig


_NODES_OWN: Final = frozenset({"data_dir", "node_id"})
"""Settings that say which node is meant."""


def doctor(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The node's TOML file (or ASPEN_CONFIG).")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The same.")] = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Look for what keeps a node from working, here and (if it runs) in the node itself.

    Configuration, data directory, disk, identity, ports, multicast, clock, DNS, pkarr, relays; of a running
    node its health, its peers, and whom it has refused and why. Without FILE or --addr, the configuration
    is the environment's and the node is looked for at its http_addr. Exits 1 if there is a problem.
    """
    import asyncio

    findings = local(as_json, lambda: asyncio.run(_examine(config or file, addr, token)))
    if as_json:
        print_json(
            {
                "problems": sum(finding.level == "problem" for finding in findings),
                "findings": [
                    {"topic": f.topic, "level": f.level, "says": f.says, "do": f.do or None} for f in findings
                ],
            }
        )
    else:
        _print(findings)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(Exit.FAILED)


def _print(findings: list[Finding]) -> None:
    rows = [(MARKS[finding.level], finding.topic, finding.says) for finding in findings]
    print_table(None, ("", "", "found"), rows)
    for finding in findings:
        if finding.do:
            print(f"{MARKS[finding.level]} {finding.topic}: {finding.says}\n  → {finding.do}")
    counts = Counter(finding.level for finding in findings)
    told = (f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in ("problem", "warning"))
    print(", ".join(told))


async def _examine(file: Path | None, addr: list[str] | None, token: str | None) -> list[Finding]:
    from aspen.cli.doctor_machine import machine_findings
    from aspen.cli.doctor_outside import outside_findings

    loaded, findings = _configuration(file)
    where = addr
    if loaded is not None and not addr:
        settings = loaded.config
        where = [_own_address(*(settings.admin_listen or settings.http_listen))]
        token = token or settings.admin_token
    told, of_node = await _node(addresses(where), token, asked_for=bool(addr))
    if loaded is not None:
        running = told is not None
        if running and addr and not _names_a_node(file, loaded):
            return [*findings, *of_node]  # a node that runs elsewhere, maybe
        if told is not None and not addr and (stranger := is_stranger(told, loaded.config)):
            if not _names_a_node(file, loaded):
                return [_of_its_own(told), *findings, *of_node]
            running, of_node = False, [stranger]
        findings += machine_findings(loaded.config, running=running)
        findings += await outside_findings(loaded.config)
    return findings + of_node


def _configuration(file: Path | None) -> tuple[LoadedConfig | None, list[Finding]]:
    """The configuration, as far as it can be read, and what is to be said of it."""
    from aspen.config.sources import NODE_DEFAULTS, load_config
    from aspen.errors import ConfigError

    topic = "configuration"
    correct = "correct it; `aspen config show --origin` says where each value comes from"
    try:
        loaded = load_config(config_file=file, environment=os.environ, flags={}, defaults=NODE_DEFAULTS)
    except ConfigError as error:
        return None, [problem(topic, part, correct) for part in error.problems]
    given_at_start: dict[str, Any] = {"node_id": 1} if not loaded.config.node_id else {}
    if not loaded.config.cookie and "cookie" not in loaded.sources:
        given_at_start["cookie"] = "stands in for the real one"
    try:
        warnings = type(loaded)(loaded.config.replace(**given_at_start), loaded.sources).validate()
    except ConfigError as error:
        return loaded, [problem(topic, part, correct) for part in error.problems]
    said = [warning(topic, text, "see docs/configuration.md") for text in warnings]
    return loaded, said or [ok(topic, str(file) if file is not None else "of the environment")]


def _names_a_node(file: Path | None, loaded: LoadedConfig) -> bool:
    """Whether the configuration is that of one certain node, rather than the defaults."""
    from aspen.config.sources import CONFIG_VARIABLE

    return file is not None or CONFIG_VARIABLE in os.environ or bool(_NODES_OWN & loaded.sources.keys())


def _of_its_own(told: dict[str, Any]) -> Finding:
    return skipped(
        "this machine",
        f"node {told.get('node_id')} runs here, with a configuration of its own and the ports it names; "
        "`aspen doctor FILE` looks at that, too",
    )


def _own_address(host: str, port: int) -> str:
    """Where this machine reaches a listener of its own."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104  compared, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_stranger(status: dict[str, Any], config: ClusterBootstrapConfig) -> Finding | None:
    """What to say if the node that answers is another than the one of this configuration."""
    from aspen.errors import IdentityError
    from aspen.identity import Identity

    try:
        own = Identity.load(config.data_path / "identity.key").z32
    except IdentityError:
        own = ""
    if not status or status.get("endpoint_id") == own or config.iroh.secret_key is not None:
        return None
    who = f"node {status.get('node_id')} (endpoint id {status.get('endpoint_id')})"
    return problem(
        "node",
        f"at this configuration's http_addr answers {who}, which has another data directory",
        "give this node another http_addr, or the configuration of that one",
    )


async def _node(
    addrs: list[str], token: str | None, *, asked_for: bool
) -> tuple[dict[str, Any] | None, list[Finding]]:
    """The status of the node that answers (empty if it doesn't tell), and what is to be said of it."""
    from aspen.client import NodeClient
    from aspen.errors import ClientError, ClientUnavailable

    findings: list[Finding] = []
    for addr in addrs:
        async with NodeClient(addr, token=token) as client:
            try:
                health = await client.health()
            except ClientUnavailable as error:
                findings.append(
                    problem("node", str(error), "start it, or correct --addr")
                    if asked_for
                    else skipped("node", f"none runs: {error}")
                )
                continue
            except ClientError as error:
                return None, [problem("node", f"{addr} is no Aspen node: {error}", "correct --addr")]
            status, of_node = await _of_node(client, health)
            return status, [*findings, *of_node]
    return None, findings


async def _of_node(client: Any, health: dict[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    from aspen.cli.doctor_node import health_findings, node_findings
    from aspen.errors import ClientError

    try:
        status, peers = await client.status(), await client.peers()
    except ClientError as error:
        do = "give the node's admin token: --token or ASPEN_ADMIN_TOKEN; or ask where admin_addr is"
        said = warning("node", f"it doesn't say who its peers are: {error}", do)
        return {}, [*health_findings(health), said]
    findings = list(node_findings(status, peers, health))
    if status.get("dns"):
        findings.append(await _dns(client.base.host or "127.0.0.1", status["dns"]))
    return status, findings


async def _dns(host: str, dns: dict[str, Any]) -> Finding:
    """Whether the node answers by DNS, asked for the SOA of its first origin."""
    import asyncio

    from aspen.dns.client import PlainDns
    from aspen.dns.name import name_from_text
    from aspen.dns.wire import SOA
    from aspen.errors import NetworkError
    from aspen.limits import DOCTOR_ASK_MS

    port, origin = int(dns["port"]), (dns.get("origins") or ["."])[0]
    client = PlainDns([(host, port)])
    try:
        async with asyncio.timeout(DOCTOR_ASK_MS / 1000):
            await client.ask(name_from_text(origin), SOA)
    except (NetworkError, TimeoutError, OSError) as error:
        return problem(
            "DNS",
            f"no answer for {origin} at {host} port {port}: {error or 'it is silent'}",
            "see that UDP and TCP to dns_port pass the firewall, and the check `workers`",
        )
    finally:
        await client.close()
    return ok("DNS", f"{host} port {port} answers for {origin}")
