"""The README's commands, run as they stand (on other ports and in other places): what is documented works."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from documented import ROOT, exchanged, own_ports, run, running_cluster, running_node

DOCS = sorted((ROOT / "docs").glob("*.md"))


def blocks(heading: str) -> list[str]:
    """The shell blocks under a heading of the README."""
    section = (ROOT / "README.md").read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture
def ports() -> dict[str, int]:
    return own_ports()


@pytest.fixture
def cluster(tmp_path: Path, ports: dict[str, int]) -> Iterator[Path]:
    """Its directory is where the README's commands are run."""
    with running_cluster(tmp_path, ports):
        yield tmp_path


@pytest.mark.skipif(not (shutil.which("dig") and shutil.which("curl")), reason="needs dig and curl")
def test_five_minutes_to_a_working_cluster(cluster: Path, ports: dict[str, int]) -> None:
    make, look, zone, publish, plain_http, kv, kill = blocks("Five minutes to a working cluster")
    assert make == "make cluster\n"
    assert "2 peers" in run(look, cluster, ports)
    shown = run(zone, cluster, ports)
    assert shown.count("192.0.2.2") == 1
    assert "IN SOA ns1.example.com." in shown
    assert run(publish, cluster, ports).count('"relay=https://relay.example./"') == 2  # resolve, dig
    assert '"data":"192.0.2.1"' in run(plain_http, cluster, ports)
    shown = run(kv, cluster, ports)
    assert "hello" in shown
    assert "goodbye" in shown
    shown = run(kill, cluster, ports)
    assert shown.count("addresses") == 2  # two tables of members, before and after


def test_a_cluster_grows_by_a_ticket_and_shrinks(cluster: Path, ports: dict[str, int]) -> None:
    grow, beside, shrink = blocks("Growing and shrinking")
    ticket, elsewhere, check = (line.split(" #")[0].rstrip() for line in grow.splitlines())
    join = exchanged(beside, ports).replace(f'"$({ticket})"', run(ticket, cluster, ports).strip())
    same = join.replace(".aspen-4", "/var/lib/aspen").replace("127.0.0.1 ", "192.0.2.4 ")
    assert same.split()[4:8] == elsewhere.split()[4:8]  # the other machine needs no ports
    join += " --profile lan"
    with running_node(join, cluster, ports, "promoted: node 4 is one of 4 voters", ""):
        assert run(check, cluster, ports).count("alike") == 4
        assert "learner" not in run(shrink, cluster, ports)
    members = json.loads(run("aspen cluster status --json", cluster, ports))["members"]
    assert [member["node_id"] for member in members] == [1, 2, 3]


def test_running_it_for_real(tmp_path: Path, ports: dict[str, int]) -> None:
    keygen, node_run = blocks("Running it for real")
    own_id = run(keygen.replace("/var/lib/aspen", "data"), tmp_path, ports).strip()
    other = [run(f"aspen pkarr keygen {name}", tmp_path, ports).strip() for name in ("two", "three")]
    for key in other:
        node_run = node_run.replace("<endpoint id>", key, 1)
    node_run = exchanged(node_run, ports).replace("/var/lib/aspen", "data").replace("192.0.2.1", "127.0.0.1")
    node_run += (
        f" --dns-port {ports['dns']} --http-addr 127.0.0.1:{ports['http']} --quic-port {ports['quic']}"
    )
    with running_node(node_run, tmp_path, ports, "node started", "a secret of its own"):
        members = json.loads(run("aspen cluster status --json", tmp_path, ports))["members"]
    assert [member["endpoint_id"] for member in members] == [own_id, *other]


def test_the_configuration_file_is_one(tmp_path: Path, ports: dict[str, int]) -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("```toml\n")[1]
    (tmp_path / "FILE").write_text(section.split("```")[0], "utf-8")
    shown = run("aspen config check FILE", tmp_path, ports)
    assert "The configuration is valid." in shown
    assert "warning" not in shown


@pytest.mark.parametrize("page", ["README.md", "examples/README.md", *(f"docs/{p.name}" for p in DOCS)])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target.split("#")[0]).exists(), target


def test_the_readme_names_every_page_of_the_documentation() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in DOCS if f"(docs/{page.name})" not in text] == []
