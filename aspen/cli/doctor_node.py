"""`aspen doctor` and a running node: what its own reports mean, and what to do. Values in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from aspen.cli.findings import Finding, ok, problem, warning

# A check of /health that is not well → what to do.
_HEALTH: Final = {
    "writer": "read the end of the node's log, and look at its disk",
    "workers": "read the node's log; fewer dns_server.workers, or more memory",
    "membership": "add it with `aspen cluster add-learner`, found a cluster with `aspen cluster init`, or "
    "(if it was removed) wipe its data directory and add it anew",
    "leader": "see that more than half of the voters run and reach each other (`aspen peers` at each)",
    "replica": "wait; if it stays behind, look at the way to the leader (`aspen peers`)",
    "disk": "make room: a node without room takes no writes",
    "map": "write less, or move the data directory to a file system that allows a larger file",
    "certificate": "see the log for why it was not renewed; docs/tls.md",
    "clock": "let NTP set the clock (timedatectl set-ntp true)",
}
_OF_MEMBERS: Final = frozenset({"membership", "leader", "replica"})
"""Those that a node must be a member for."""
# Why peers were refused → is it a problem, what it means, what to do.
_REFUSALS: Final[Mapping[str, tuple[bool, str, str]]] = {
    "wrong_cookie": (
        True,
        "a peer has another cookie, or this node has",
        "give all nodes the same cookie (`aspen config show --origin` says where it comes from)",
    ),
    "wrong_key": (
        False,  # also for a moment when a node has changed its key
        "another key answers at a peer's address, or claims it",
        "correct `peers`, or the address; if a key was changed: docs/security.md",
    ),
    "node_id_claimed": (
        True,
        "a node uses the node id of another",
        "give every node a node_id of its own, and none of them another's data directory",
    ),
    "foreign_cluster": (
        False,
        "a node of another cluster has the same cookie",
        "give each cluster a cookie of its own",
    ),
    "removed": (False, "a node that was removed still asks", "stop it, or wipe it and add it anew"),
    "version": (
        False,
        "a peer speaks another version of the protocol, or none yet, as one that joins",
        "if it goes on, bring all nodes to one version",
    ),
    "not_admitted": (
        False,
        "a node that is no member yet asks to be one",
        "add it: `aspen cluster add-learner`",
    ),
    "too_many": (False, "more connections than this node takes", "look who dials (its log says)"),
}
_GOSSIP: Final[Mapping[str, tuple[str, str]]] = {
    "stale": ("announcements came too late: a clock is behind", "let NTP set the clocks"),
    "future": ("announcements came from the future: a clock is ahead", "let NTP set the clocks"),
    "topic": ("announcements of another cluster came", "give each cluster a cookie of its own"),
    "node_id": ("a node id was announced by two keys", "give every node a node_id of its own"),
    "signature": (
        "announcements came that were not signed by their author",
        "look which peer passes them on",
    ),
}


def node_findings(
    status: Mapping[str, Any], peers: Mapping[str, Any], health: Mapping[str, Any]
) -> Iterator[Finding]:
    """From `/v1/cluster/status`, `/v1/peers` and `/health`."""
    yield ok("node", f"node {status['node_id']} answers, version {status.get('version')}")
    if status.get("role") == "removed":
        # That nobody wants it any more follows, and needs no telling.
        yield problem(
            "membership",
            f"node {status['node_id']} was removed from its cluster: the others refuse it, and what it holds "
            "grows old",
            "stop it; to use this machine again, wipe its data directory (identity.key too) and join anew: "
            "`aspen cluster ticket --signed` at a member, `aspen cluster join` here",
        )
        others = [check for check in health.get("checks", ()) if check["name"] not in _OF_MEMBERS]
        yield from health_findings({"checks": others})
        return
    yield from health_findings(health)
    yield from peer_findings(status, peers)
    yield from refusal_findings(status.get("refusals", {}), peers.get("refused", {}))


def health_findings(health: Mapping[str, Any]) -> Iterator[Finding]:
    for check in health.get("checks", ()):
        name, state = check["name"], check["status"]
        if state == "healthy":
            yield ok(name, "is well")
        else:
            judge = problem if state == "unhealthy" else warning
            yield judge(name, check["reason"], _HEALTH.get(name, "read the node's log"))


def peer_findings(status: Mapping[str, Any], peers: Mapping[str, Any]) -> Iterator[Finding]:
    """The other members: each must be reached."""
    known = {peer["endpoint_id"]: peer for peer in peers.get("peers", ())}
    others = [m for m in status.get("members", ()) if m["endpoint_id"] != status.get("endpoint_id")]
    for member in others:
        peer = known.get(member["endpoint_id"])
        name = f"node {member['node_id']}"
        if peer is not None and peer["path"] != "none":
            rtts = [connection["rtt_ms"] for connection in peer["connections"]]
            took = f", {min(rtts):.1f} ms" if rtts else ""
            yield ok("peers", f"{name} is reached: {peer['path']}{took}")
            continue
        addresses = [known["address"] for known in peer["addresses"]] if peer else member["addresses"]
        if not addresses:
            yield problem("peers", f"{name}: no address is known", "name one in `peers`, or use a ticket")
            continue
        yield problem(
            "peers",
            f"{name} can't be reached at {', '.join(map(str, addresses))}",
            "see that it runs, and that UDP to its quic_port passes every firewall in both directions",
        )
    if others and not peers.get("neighbours"):
        yield warning("gossip", "this node gossips with nobody", "see iroh.enable_gossip, and `peers` above")
    elif others:
        yield ok("gossip", f"{peers['neighbours']} neighbours")


def refusal_findings(refusals: Mapping[str, int], gossip: Mapping[str, int]) -> Iterator[Finding]:
    for code, count in sorted(refusals.items()):
        if count and code in _REFUSALS:
            grave, meaning, do = _REFUSALS[code]
            yield (problem if grave else warning)(
                "refused", f"{meaning} ({code}, {count} times since the start)", do
            )
    for code, count in sorted(gossip.items()):
        if count and code in _GOSSIP:
            meaning, do = _GOSSIP[code]
            yield warning("gossip", f"{meaning} ({code}, {count} times since the start)", do)
