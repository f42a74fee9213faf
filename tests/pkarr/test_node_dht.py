"""Which address a node says that it can be reached at."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.errors import ConfigError
from aspen.net.reachable import reachable_addresses
from aspen.node.dht import numeric


def test_a_bound_address_is_what_is_said() -> None:
    for bound in (("192.0.2.1", 7300), ("2001:db8::1", 7300), ("node.example", 7300)):
        assert reachable_addresses(bound) == (bound,)


def test_a_name_is_no_address_to_publish() -> None:
    assert numeric([("node.example", 7300), ("2001:db8::1", 7300)]) == [("2001:db8::1", 7300)]


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_for_a_wildcard_it_is_an_address_that_this_machine_sends_from(wildcard: str) -> None:
    for host, port in reachable_addresses((wildcard, 7300)):  # none, where there is no network
        assert port == 7300
        assert not ipaddress.ip_address(host).is_unspecified


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"iroh": IrohConfig(pkarr_relay_url="dns.iroh.link")}, "pkarr_relay_url"),
        ({"iroh": IrohConfig(pkarr_relay_urls=["https://a.example", "ftp://b.example"])}, "ftp://b.example"),
        ({"iroh": IrohConfig(enable_pkarr=True, pkarr_republish_delay_secs=0)}, "pkarr_republish_delay_secs"),
        ({"dns_server": DnsServerConfig(dht_bootstrap_nodes=["router"])}, "dht_bootstrap_nodes"),
    ],
)
def test_settings_that_can_not_work_are_named(
    settings: dict[str, IrohConfig | DnsServerConfig], reason: str, tmp_path: Path
) -> None:
    config = ClusterBootstrapConfig(
        node_id=1,
        data_dir=tmp_path / "node",
        cookie="only-for-this-test",
        **settings,  # type: ignore[arg-type]
    )
    with pytest.raises(ConfigError, match=reason):
        config.validate()


def test_accepted_packets_go_to_the_dht_if_asked_for_or_if_the_node_itself_does() -> None:
    def publishes(asked: bool | None, **iroh: bool) -> bool:
        dns = DnsServerConfig(enable_dht_publish=asked)
        return ClusterBootstrapConfig(dns_server=dns, iroh=IrohConfig(**iroh)).publishes_to_dht

    assert not publishes(None)
    assert publishes(None, enable_pkarr=True)
    assert not publishes(None, enable_pkarr=True, enable_pkarr_dht=False)
    assert publishes(True)
    assert not publishes(False, enable_pkarr=True)
