"""A BitTorrent DHT on loopback: libtorrent sessions, each a node, that know each other."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lt: Any = pytest.importorskip("libtorrent")

HOST = "127.0.0.1"
WAIT_S = 15.0
# On loopback all nodes have one address, which on the Internet is a mark of attackers.
_SETTINGS = {
    "listen_interfaces": f"{HOST}:0",
    "enable_dht": True,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "dht_bootstrap_nodes": "",
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_prefer_verified_node_ids": False,
    "dht_enforce_node_id": False,
    "dht_ignore_dark_internet": False,
    "dht_block_ratelimit": 1_000_000,
    "dht_upload_rate_limit": 10_000_000,
}


class Node:
    """One libtorrent session, with its DHT only."""

    def __init__(self) -> None:
        mask = lt.alert.category_t.dht_notification | lt.alert.category_t.dht_operation_notification
        self.session = lt.session({**_SETTINGS, "alert_mask": mask})
        deadline = time.monotonic() + WAIT_S
        while not self.session.listen_port():
            assert time.monotonic() < deadline, "libtorrent doesn't listen"
            time.sleep(0.005)

    @property
    def port(self) -> int:
        return int(self.session.listen_port())

    def put(self, seed: bytes, value: bytes) -> int:
        """Publish a value under a key as libtorrent does: it signs, and counts the sequence number up."""
        from nacl.signing import SigningKey

        # The key as it was expanded (RFC 8032 §5.1.5).
        expanded = bytearray(hashlib.sha512(seed).digest())
        expanded[0] &= 248
        expanded[31] = expanded[31] & 63 | 64
        public_key = bytes(SigningKey(seed).verify_key)
        self.session.dht_put_mutable_item(bytes(expanded), public_key, value, b"")
        alert = self._wait(lt.dht_put_alert, lambda each: bytes(each.public_key) == public_key)
        assert alert.num_success > 0, alert.message()
        return int(alert.seq)

    def get(self, public_key: bytes) -> tuple[int, bytes, bytes] | None:
        """Sequence number, signature and value under a key."""
        self.session.dht_get_mutable_item(public_key, b"")
        alert = self._wait(
            lt.dht_mutable_item_alert, lambda each: each.authoritative and bytes(each.key) == public_key
        )
        # A lookup that found nothing ends with an item that is none, and a signature of whatever there was.
        return (alert.seq, alert.signature, alert.item) if alert.item and alert.seq > 0 else None

    def _wait(self, kind: type, wanted: Any) -> Any:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            self.session.wait_for_alert(200)
            for alert in self.session.pop_alerts():
                if isinstance(alert, kind) and wanted(alert):
                    return alert
        raise AssertionError(f"libtorrent gave no {kind.__name__}")


@contextmanager
def running(size: int = 10) -> Iterator[list[Node]]:
    """`size` nodes, each of which has heard of all others."""
    nodes = [Node() for _ in range(size)]
    try:
        for node in nodes:
            for other in nodes:
                if other is not node:
                    node.session.add_dht_node((HOST, other.port))
        yield nodes
    finally:
        for node in nodes:
            node.session.pause()
        nodes.clear()
