"""The documents that Aspen grew from: every TOML block, name and command line works, or is answered.

The table here holds their names and short inputs. Where the documents themselves lie beside the repository
(`../shared/reference`), they are read too, so that nothing was forgotten.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aspen.cli import node as node_command
from aspen.cli.main import node_app
from aspen.cli.reference import INSTEAD
from aspen.config import setting_types
from aspen.config.sources import NODE_DEFAULTS, load_config
from aspen.errors import ConfigError

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("ASPEN_TEST_REFERENCE", ROOT.parent / "shared" / "reference"))

STRUCTS = {
    "ClusterBootstrapConfig": "",
    "IrohConfig": "iroh.",
    "DnsServerConfig": "dns_server.",
}
SECTIONS = {
    "": "node_id data_dir host ractor_port cookie http_addr control_backend heartbeat_interval_ms "
    "election_timeout_min_ms election_timeout_max_ms peers",
    "iroh.": "secret_key relay_url relay_mode relay_urls enable_gossip gossip_ticket enable_mdns "
    "enable_dns_discovery dns_discovery_url enable_pkarr enable_pkarr_dht enable_pkarr_relay "
    "include_pkarr_direct_addresses pkarr_republish_delay_secs pkarr_relay_url enable_raft_auth "
    "bootstrap_nodes",
    "dns_server.": "enable dns_port port http_addr https_config origin data_dir enable_dht_fallback",
}
NAMES = [prefix + name for prefix, names in SECTIONS.items() for name in names.split()]
COMMANDS = (
    ("aspen-node --node-id 1 --relay-url https://relay.example.com", "cookie: the cluster cookie is empty"),
    ("aspen-node --node-id 2 --ticket TICKET", ""),  # the ticket says whether it lets in without a cookie
    (
        "aspen-node --node-id 1 --relay-url https://relay.example.com --enable-dns-discovery --enable-pkarr "
        "--cookie production-cluster-secret",
        "cookie: the cluster cookie is one from the documentation",
    ),
    ("aspen-node --node-id 1 --cookie 'of my own making'", ""),
)
# A cookie is what those lines leave to their reader; with one, they start a node.
OWN_COOKIE = {"ASPEN_COOKIE": "correct horse battery"}


def refusal_of(line: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """What an `aspen-node` line is refused with; "" if a node would start."""
    said: list[str] = []

    def instead_of_running(config_file: Path | None, flags: dict[str, Any], **_options: Any) -> None:
        try:
            load_config(
                config_file=config_file,
                environment=environment | {"ASPEN_DATA_DIR": str(folder / "node")},
                flags=flags,
                defaults=NODE_DEFAULTS,
            ).validate()
        except ConfigError as error:
            said.append(str(error))

    monkeypatch.setattr(node_command, "run_node", instead_of_running)
    program, *arguments = shlex.split(line)
    assert program == "aspen-node"
    result = CliRunner().invoke(node_app, arguments)
    assert result.exit_code == 0, result.output
    return " ".join(said)


@pytest.mark.parametrize("name", NAMES)
def test_every_documented_name_is_a_setting(name: str) -> None:
    assert name in setting_types() or any(path.startswith(name + ".") for path in setting_types())


@pytest.mark.parametrize(("line", "says"), COMMANDS)
def test_documented_commands(line: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refused = refusal_of(line, {}, monkeypatch, tmp_path)
    assert refused.startswith(says)
    assert bool(refused) == bool(says)


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (
            '[dependencies]\niroh-dns-server = { version = "0.x" }\n',
            "no such setting: dependencies; that is a",
        ),
        ("[features]\ndefault = []\n", "no such setting: features; that is a Cargo.toml"),
        ("[mainline]\nenabled = true\n", "no such setting: mainline; write [dns_server] with enable_dht"),
        ("[https]\nport = 8443\n", "no such setting: https; write [dns_server.https_config]"),
    ],
)
def test_files_of_neighbours_are_answered(toml: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError, match=re.escape(f"{file}: {says}")):
        load_config(config_file=file, environment={}, flags={})


# --- the documents themselves -----------------------------------------------------------------


def documents() -> str:
    if not REFERENCE.is_dir():
        pytest.skip("the source documents do not lie beside the repository")
    return "\n".join(file.read_text("utf-8") for file in sorted(REFERENCE.glob("*.md")))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", documents(), re.M | re.S)


def test_every_toml_block_loads_or_is_answered(tmp_path: Path) -> None:
    found = blocks("toml")
    assert len(found) >= 10
    for text in found:
        file = tmp_path / "block.toml"
        file.write_text(text)
        environment = {**OWN_COOKIE, "ASPEN_NODE_ID": "1", "ASPEN_DATA_DIR": str(tmp_path / "node")}
        try:
            load_config(config_file=file, environment=environment, flags={}).validate()
        except ConfigError as error:
            if "that is a Cargo.toml" not in str(error):
                pytest.fail(f"{error}\n{text}")


def test_every_field_of_their_structs_is_a_setting() -> None:
    text = "\n".join(blocks("rust"))
    seen = set()
    for struct, prefix in STRUCTS.items():
        for body in re.findall(rf"\b{struct} \{{\n(.*?)^ *\}}", text, re.M | re.S):
            depth = 0
            for line in body.splitlines():
                field = re.match(r"\s*(?:pub )?([a-z_]+): ", line)
                if field and depth == 0:
                    name = prefix + field[1]
                    seen.add(name)
                    known = name in setting_types()
                    assert known or any(p.startswith(name + ".") for p in setting_types()), name
                depth += line.count("{") - line.count("}")
    assert seen <= {*NAMES, "iroh", "peers"}, seen - set(NAMES)


def command_lines() -> Iterator[str]:
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.partition("#")[0].strip()
            if command and not command.startswith(("for ", "echo ", "done")):
                yield " ".join(command.replace("|| exit 1", "").split())


def test_every_command_line_works_or_has_a_word_instead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = list(command_lines())
    assert len(lines) >= 12
    for line in lines:
        if line.startswith("aspen-node"):
            refused = refusal_of(line, {}, monkeypatch, tmp_path)
            assert refused.startswith("cookie: the cluster cookie is ") or "--ticket" in line, line
            own = re.sub(r"--cookie \S+", "", line).replace('"$TICKET"', "''")
            own = own.replace("--ticket ''", "")  # a ticket that is read is another test's
            assert refusal_of(own, OWN_COOKIE, monkeypatch, tmp_path) == "", line
            continue
        inner = re.search(r"\$\((curl \S+)", line)
        wanted = (inner[1] if inner else line).replace("$example", "NAME")
        patterns = [re.escape(known).replace("NAME", r"\w+") for known in INSTEAD]
        assert any(re.fullmatch(pattern, wanted) for pattern in patterns), line


# --- our own pages ----------------------------------------------------------------------------

PAGES = ("configuration.md", "security.md", "operating.md", "joining.md", "backup.md")


def own_command_lines() -> list[str]:
    lines = []
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text("utf-8")
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
            lines += [line.partition("#")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
    return sorted({line for line in lines if line.startswith("aspen ")})


def test_the_commands_of_our_pages_are_commands() -> None:
    """Each is one that there is, with the options that it has."""
    from typer.main import get_command

    from aspen.cli.main import app

    lines = own_command_lines()
    assert len(lines) > 10
    for line in lines:
        command: Any = get_command(app)
        words = shlex.split(re.sub(r"<[^>]*>|…", "x", line).replace("|", " "))[1:]
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands"), f"no such command: {line}"
        known = {option for parameter in command.params for option in parameter.opts}
        takes_more = command.context_settings.get("ignore_unknown_options")
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - known - {"--help"}
        assert takes_more or not unknown, f"{unknown} in: {line}"
