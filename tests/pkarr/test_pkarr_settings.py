"""The section `[pkarr]`: from every source into the parts of the relay, and told of in the documentation."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aspen.config import ClusterBootstrapConfig
from aspen.config.pkarr import PkarrConfig
from aspen.config.sources import load_config
from aspen.errors import ConfigError
from aspen.identity import Identity
from aspen.node.pkarr import _gate_rules, packet_life
from aspen.ratelimit import Rate
from aspen.state.packets import PacketLife

ALICE = Identity.from_seed(b"a" * 32)
DOCS = Path(__file__).parents[2] / "docs" / "pkarr.md"


def test_settings_come_from_toml_and_environment_and_reach_the_relay(tmp_path: Path) -> None:
    file = tmp_path / "aspen.toml"
    file.write_text(
        f"""
        trusted_proxies = ["10.0.0.0/8"]
        [pkarr]
        retention_secs = 60
        strict_ttl = true
        puts_per_address = 3
        denied_keys = ["{ALICE.z32}"]
        """
    )
    environment = {"ASPEN_PKARR_PUTS_PER_ADDRESS_BURST": "7", "ASPEN_PKARR_GETS_PER_ADDRESS": "0.5"}
    config = load_config(config_file=file, environment=environment, flags={}).config
    assert packet_life(config.pkarr) == PacketLife(60_000, True)
    rules = _gate_rules(config)
    assert rules.put_per_address == Rate(3.0, 7)
    assert rules.get_per_address == Rate(0.5, 500)
    assert rules.denied == {ALICE.endpoint_id}
    assert [str(network) for network in rules.trusted_proxies] == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pkarr": PkarrConfig(denied_keys=["nobody"])}, "pkarr.denied_keys: 'nobody'"),
        ({"pkarr": PkarrConfig(allowed_keys=[ALICE.z32.upper()])}, "pkarr.allowed_keys"),
        ({"pkarr": PkarrConfig(retention_secs=0)}, "pkarr.retention_secs"),
        ({"pkarr": PkarrConfig(puts_per_key=-1)}, "pkarr.puts_per_key"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "trusted_proxies"),
    ],
)
def test_what_will_not_do_is_named(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    config = ClusterBootstrapConfig(node_id=1, cookie="a-cookie-of-this-test", data_dir=tmp_path / "n")
    config.validate()
    with pytest.raises(ConfigError) as refused:
        config.replace(**changes).validate()
    assert named in str(refused.value)


def test_every_setting_is_documented_with_its_default() -> None:
    section = DOCS.read_text("utf-8").split("\n## Settings\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    documented = {name.strip(" `"): default for names, default in rows for name in names.split(",")}
    fields = {field.name: field.default for field in msgspec.structs.fields(PkarrConfig)}
    assert documented.keys() - {"[pkarr]"} == fields.keys()
    for name, default in fields.items():
        if isinstance(default, int | float) and not isinstance(default, bool) and default:
            assert f"{default:g}" in documented[name].replace("604800", f"{604800:g}"), name
