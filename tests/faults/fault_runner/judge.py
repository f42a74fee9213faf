"""The verdict: what must hold of the histories and of the nodes once all is healed."""

from __future__ import annotations

import base64
import http.client
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2] / "sim"))
sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))

from cluster import Cluster, NodeProcess
from fault_runner.nemesis import Nemesis, NoSync
from fault_runner.testbed import Testbed
from fault_runner.workload import PublishedKey, Told, Workload
from raft_sim.history import Kind, Operation, Outcome
from raft_sim.linearizability import check_key

CONVERGE_S: Final = 40.0


def linearizable(operations: Sequence[Operation]) -> str | None:
    """`None` if each key's history could have come from one copy served one request at a time."""
    by_key: dict[int, list[Operation]] = {}
    for operation in operations:
        by_key.setdefault(operation.key, []).append(operation)
    for key, history in by_key.items():
        problem = check_key(history)
        if problem is not None:
            lines = "\n".join(map(str, history))
            return f"key {key} is not linearizable: {problem}\n{lines}"
    return None


def revisions_in_order(told: Sequence[Told]) -> str | None:
    """`None` if revisions follow real time over all keys: who began after another's end saw a later one.

    This says more than linearizability of each key: all keys are one store.
    """
    moments = sorted(
        [(entry.called_s, 1, entry) for entry in told] + [(entry.ended_s, 0, entry) for entry in told],
        key=lambda moment: moment[:2],
    )
    newest: Told | None = None
    floors: dict[int, Told | None] = {}
    for _, is_call, entry in moments:
        if is_call:
            floors[id(entry)] = newest
            continue
        floor = floors[id(entry)]
        if floor is not None:
            writes = entry.operation.kind is Kind.WRITE and entry.changed
            if entry.revision < floor.revision or (writes and entry.revision == floor.revision):
                return f"{_spelled(entry)} began after the end of {_spelled(floor)}"
        if newest is None or entry.revision > newest.revision:
            newest = entry
    return None


def _spelled(entry: Told) -> str:
    return f"revision {entry.revision}, {entry.operation}, through node {entry.node_id},"


def silent_without_sync(told: Sequence[Told], periods: Sequence[NoSync]) -> str | None:
    """`None` if no node acknowledged a write that came to it while its syncs failed, and all had halted."""
    for period in periods:
        for entry in told:
            if (
                entry.node_id == period.node_id
                and entry.operation.kind is Kind.WRITE
                and entry.called_s > period.began_s
                and entry.ended_s < period.ended_s
            ):
                return f"node {period.node_id} acknowledged {entry.operation} although its syncs failed"
    return None


def packets_everywhere(bed: Iterable[NodeProcess], packets: dict[str, PublishedKey]) -> str | None:
    """`None` if every node has what was acknowledged last under each key, or what was tried after that."""
    for node in bed:
        # One connection a node: a long run has more packets than there are ports to ask from.
        with closing(http.client.HTTPConnection(node.host, node.http_port, timeout=30)) as connection:
            for z32, key in packets.items():
                connection.request("GET", f"/pkarr/{z32}")
                answer = connection.getresponse()
                body = answer.read()
                possible = {packet.payload for packet in key.open}
                if key.acknowledged is not None:
                    possible.add(key.acknowledged.payload)
                found = body if answer.status == 200 else None
                if found not in possible and (key.acknowledged is not None or found is not None):
                    return f"{node} has lost a packet that was acknowledged: {z32}, status {answer.status}"
    return None


def same_state(bed: Cluster) -> str | None:
    """`None` if all nodes hold the same, as they tell it over HTTP, by their own check of their hashes, and
    as it lies in their stores."""
    first, *others = bed
    scanned = dict(_scan(first))
    for node in others:
        if dict(_scan(node)) != scanned:
            return f"the keys of {node} and {first} differ"
    check = first.request("POST", "/v1/cluster/check", b'{"timeout_ms": 10000}')
    if check.status != 200 or not check.json["alike"]:
        return f"the nodes' own check of their states says: {check.body.decode()}"
    try:
        bed.wait_same_state()
    except AssertionError as error:
        return str(error)
    return None


def _scan(node: NodeProcess) -> Iterator[tuple[bytes, tuple[bytes, int]]]:
    after = ""
    while True:
        answer = node.request("GET", f"/v1/kv?limit=500&consistency=stale{after}")
        page = answer.json
        for entry in page["entries"]:
            key = base64.b64decode(entry["key"])
            yield key, (base64.b64decode(entry["value"]), entry["mod_revision"])
        if not page["more"]:
            return
        after = f"&after={key.decode()}"


def converges(bed: Cluster) -> str | None:
    """`None` if all nodes serve and are level again within a while."""
    try:
        bed.wait_ready(CONVERGE_S)
        bed.wait_caught_up(CONVERGE_S)
    except AssertionError as error:
        return str(error)
    return None


def verdicts(bed: Testbed, workload: Workload, nemesis: Nemesis) -> dict[str, str | None]:
    """Each demand, and what is wrong with it if anything is."""
    operations = workload.history.operations
    checks: dict[str, Callable[[], str | None]] = {
        "linearizable": lambda: linearizable(operations),
        "revisions follow time": lambda: revisions_in_order(workload.told),
        "silent without sync": lambda: silent_without_sync(workload.told, nemesis.without_sync),
        "no node ended by itself": lambda: "; ".join(nemesis.ended_alone) or None,
        "packets everywhere": lambda: packets_everywhere(bed, workload.packets),
        "same state": lambda: same_state(bed),
        "writes got through": lambda: None if _written(operations) else "no write was ever acknowledged",
    }
    return {name: check() for name, check in checks.items()}


def _written(operations: Sequence[Operation]) -> int:
    return sum(1 for o in operations if o.kind is Kind.WRITE and o.outcome is Outcome.OK)
