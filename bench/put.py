"""Writes: PUT/s and latency of signed packets on one and three nodes, beside etcd's PUT of as many bytes.

Both sides take distinct keys over HTTP/1.1 from the same wrk on the same two cores, keep their data on
the same disk and sync it before they answer. A packet is what an iroh endpoint publishes (about 200 bytes,
an Ed25519 signature that we verify); etcd gets the same number of bytes under a key of 32. Load goes to
the leader of either; `follower` sends ours to a node that must forward.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aspen.identity import Identity
from aspen.pkarr.packet import signable
from bench import load, peers
from bench.nodes import HOST, NodeProcess, now_us, running, sign

CONNECTIONS = 64
TEMPLATE = sign("relay=https://relay.example./")


def packets(node: NodeProcess) -> load.Maker:
    """PUTs of packets, each under a fresh key."""
    host = f"{HOST}:{node.http_port}"
    template_label = TEMPLATE.z32.encode()
    template = TEMPLATE.payload[72:]
    assert template.count(template_label) == 1

    def make(count: int) -> Iterator[bytes]:
        for _ in range(count):
            identity = Identity.generate()
            z32 = identity.z32
            message = template.replace(template_label, z32.encode())
            timestamp_us = now_us()
            signature = identity.sign(signable(timestamp_us, message))
            body = signature + timestamp_us.to_bytes(8, "big") + message
            yield load.http_request("PUT", f"/pkarr/{z32}", host, body, "application/octet-stream")

    return make


def etcd_puts(member: peers.EtcdMember) -> load.Maker:
    """PUTs of as many random bytes, each under a fresh key, as the JSON gateway wants them."""
    host = f"{HOST}:{member.client_port}"
    size = len(TEMPLATE.payload)

    def make(count: int) -> Iterator[bytes]:
        for _ in range(count):
            document = {
                "key": base64.b64encode(os.urandom(32)).decode(),
                "value": base64.b64encode(os.urandom(size)).decode(),
            }
            yield load.http_request(
                "POST", "/v3/kv/put", host, json.dumps(document).encode(), "application/json"
            )

    return make


def bench(size: int, folder: Path, *, seconds: int, rounds: int) -> None:
    """All figures of a cluster of `size`."""
    name = f"put_{size}node"
    # All in one session: the kernel would schedule nodes in sessions of their own as groups of their own.
    with (
        running(folder / "aspen", size, profile="default", own_sessions=False) as ours,
        peers.etcd(folder, size) as theirs,
    ):
        leader = ours.leader()
        us = load.Side("aspen", leader.addr, packets(leader))
        etcd = load.Side("etcd", theirs.client_url, etcd_puts(theirs))

        def compare(us: load.Side, connections: int) -> tuple[load.Result, load.Result]:
            return load.compare((us, etcd), folder, connections=connections, seconds=seconds, rounds=rounds)

        aspen_result, etcd_result = compare(us, CONNECTIONS)
        load.report(f"{name}_rps", aspen_result.rps, etcd_result.rps, "etcd")
        load.report(f"{name}_p50_ms", aspen_result.p50_ms, etcd_result.p50_ms, "etcd")
        load.report(f"{name}_p99_ms", aspen_result.p99_ms, etcd_result.p99_ms, "etcd")
        lone, etcd_lone = compare(us, 1)
        load.report(f"{name}_lone_p50_ms", lone.p50_ms, etcd_lone.p50_ms, "etcd")
        load.report(f"{name}_lone_p99_ms", lone.p99_ms, etcd_lone.p99_ms, "etcd")
        if size > 1:
            follower = ours.followers()[0]
            forwarding = load.Side("follower", follower.addr, packets(follower))
            for connections, label in ((CONNECTIONS, ""), (1, "_lone")):
                aspen_result, etcd_result = compare(forwarding, connections)
                if connections > 1:
                    load.report(f"{name}_follower_rps", aspen_result.rps, etcd_result.rps, "etcd leader")
                load.report(
                    f"{name}_follower{label}_p50_ms", aspen_result.p50_ms, etcd_result.p50_ms, "etcd leader"
                )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.put", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="1,3", help="cluster sizes, separated by commas")
    options = parser.parse_args()
    if not load.available() or not peers.etcd_available():
        print("# put: needs wrk and etcd (Debian: apt-get install wrk etcd-server)", file=sys.stderr)
        return 1
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="aspen-bench-") as folder:
            bench(size, Path(folder), seconds=options.seconds, rounds=options.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
