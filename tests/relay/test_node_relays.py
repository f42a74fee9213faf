"""Which relays a node uses, by its settings and by what others announce."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from relay_stations import COOKIE

from aspen.config import ClusterBootstrapConfig, IrohConfig
from aspen.discovery.announcement import Announcement
from aspen.errors import ConfigError
from aspen.identity import Cookies, Identity
from aspen.node.relay import NodeRelays

GIVEN = "https://given.example.com"


class Nobody:
    def has_removed(self, endpoint_id: bytes) -> bool:
        return False


def node(tmp_path: Path, *announced: str | None, **iroh: Any) -> NodeRelays:
    """A node's relays, with other nodes that announce these."""
    config = ClusterBootstrapConfig(
        node_id=1, cookie=COOKIE, data_dir=str(tmp_path / "n"), iroh=IrohConfig(**iroh)
    )
    relays = NodeRelays(config, Identity.generate(), Cookies.of([COOKIE]), Nobody)
    keys = [bytes((number,)) * 32 for number in range(len(announced))]
    relays._known = {
        key: (Announcement(b"t" * 32, key, 0, (), url, 0, 0, b"h" * 32), 0)
        for key, url in zip(keys, announced, strict=True)
    }
    return relays


def wanted(relays: NodeRelays) -> list[str]:
    return [url.name for url in relays._wanted()]


def test_the_relays_given_come_before_those_announced_which_all_nodes_take_in_one_order(
    tmp_path: Path,
) -> None:
    others = (
        "https://b.example.com",
        None,
        "wss://a.example.com/relay",
        "https://a.example.com",
        "not a URL",
    )
    relays = node(tmp_path, *others, relay_url=GIVEN, relay_urls=["https://z.example.com"])
    assert wanted(relays) == ["given.example.com", "z.example.com", "a.example.com", "b.example.com"]


def test_custom_follows_nobody_and_disabled_uses_none(tmp_path: Path) -> None:
    announced = "https://a.example.com"
    assert wanted(node(tmp_path, announced, relay_mode="custom", relay_url=GIVEN)) == ["given.example.com"]
    assert wanted(node(tmp_path, announced, relay_mode="disabled", relay_url=GIVEN)) == []
    assert wanted(node(tmp_path)) == []


def test_a_peer_is_looked_for_where_it_says_that_it_is(tmp_path: Path) -> None:
    relays = node(tmp_path, "https://a.example.com")
    assert relays._announced(bytes(32)) == "wss://a.example.com/relay"
    assert relays._announced(b"1" * 32) is None


@pytest.mark.parametrize(
    ("iroh", "says"),
    [
        ({"relay_url": "relay.example.com"}, "iroh.relay_url: 'relay.example.com' is not the URL of a relay"),
        ({"relay_urls": ["https://a?b"]}, "iroh.relay_urls: 'https://a?b' is not the URL of a relay"),
        ({"relay_urls": [f"https://{i}.example" for i in range(5)]}, "uses 4 relays at most, not 5"),
        ({"relay_mode": "custom"}, "iroh.relay_urls is empty"),
        ({"relay_server_url": GIVEN}, "iroh.relay_server is off"),
    ],
)
def test_what_cannot_be_is_said_before_a_node_starts(iroh: dict[str, Any], says: str, tmp_path: Path) -> None:
    config = ClusterBootstrapConfig(
        node_id=1, cookie=COOKIE, data_dir=str(tmp_path / "n"), iroh=IrohConfig(**iroh)
    )
    with pytest.raises(ConfigError) as caught:
        config.validate()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("iroh", "says"),
    [
        ({"relay_mode": "disabled", "relay_url": GIVEN}, "the relays named are not used"),
        ({"relay_server": True}, "no other node is told of it"),
    ],
)
def test_what_is_probably_a_mistake_is_warned_of(iroh: dict[str, Any], says: str, tmp_path: Path) -> None:
    config = ClusterBootstrapConfig(
        node_id=1, cookie=COOKIE, data_dir=str(tmp_path / "n"), iroh=IrohConfig(**iroh)
    )
    assert [text for text in config.validate() if says in text]
