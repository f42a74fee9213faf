"""The README's commands, run as they stand (on other ports and in other places): what is documented works."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from documented import ROOT, blocks_for, own_ports, run, running_cluster

DOCS = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture
def ports() -> dict[str, int]:
    return own_ports()


@pytest.fixture
def cluster(tmp_path: Path, ports: dict[str, int]) -> Iterator[Path]:
    """Its directory is where the README's commands are run."""
    with running_cluster(tmp_path, ports):
        yield tmp_path


@pytest.mark.skipif(not (shutil.which("dig") and shutil.which("curl")), reason="needs dig and curl")
def test_five_minutes_to_a_working_cluster(
    request: pytest.FixtureRequest, cluster: Path, ports: dict[str, int]
) -> None:
    look, zone, publish, plain_http, kv, kill = blocks_for(request)["README.md"]
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


def test_the_configuration_file_is_one(
    request: pytest.FixtureRequest, tmp_path: Path, ports: dict[str, int]
) -> None:
    (settings,) = blocks_for(request)["README.md"]
    (tmp_path / "FILE").write_text(settings, "utf-8")
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
