"""Pages that are made from the code are as the code makes them; the site's menu has every page; the plots."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def script(path: str) -> ModuleType:
    """A script's functions."""
    file = ROOT / path
    spec = importlib.util.spec_from_file_location(f"script_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_is_fresh() -> None:
    pages = script("scripts/pages.py")
    assert pages.cli_page() == pages.CLI_PAGE.read_text("utf-8"), "run make pages"


def test_the_page_of_http_routes_is_fresh() -> None:
    pages = script("scripts/pages.py")
    assert pages.http_page(asyncio.run(pages.document())) == pages.HTTP_PAGE.read_text("utf-8"), (
        "run make pages"
    )


def test_the_menu_has_every_page_once() -> None:
    def pages(menu: list[object]) -> list[str]:
        found = []
        for entry in menu:
            found += [entry] if isinstance(entry, str) else pages(next(iter(entry.values())))  # type: ignore[attr-defined]
        return found

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(pages(site["nav"])) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    assert site["theme"]["font"] is False  # else readers' browsers ask another host


def test_pages_link_to_pages_only() -> None:
    """What leaves docs/ would be missing on the site (mkdocs --strict says so too, where it is installed)."""
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert "://" in target or (page.parent / target).resolve().is_relative_to(page.parent), (
                page,
                target,
            )


SAID = {
    "machine": "2 shared cores",
    "figures": [
        {"bench": "put", "name": "put_3node_rps", "aspen": 3000.0, "peer": 1500.0, "peer_name": "etcd"},
        {"bench": "dns", "name": "dns_million_start_ms", "aspen": 50.0, "peer": 100.0, "peer_name": "knot"},
        {"bench": "dns", "name": "dns_zone_qps", "aspen": 1.0, "peer": 4.0, "peer_name": "knot"},
        {"bench": "dns", "name": "dns_writes_p99_ms", "aspen": 1.0, "peer": 2.0, "peer_name": "the bound"},
        {"bench": "snapshot", "name": "snapshot_1m_s", "aspen": 9.5},
    ],
}


def test_the_plot_shows_who_is_better() -> None:
    plots = script("scripts/plots.py")
    assert [plots.factor(each) for each in plots.compared(SAID)] == [2.0, 0.25, 2.0]
    drawn = ElementTree.fromstring(plots.svg(SAID))
    bars = [float(bar.attrib["x"]) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x")]
    assert bars[0] == bars[2] > bars[1]  # the second begins left of the middle
    page = plots.written(plots.PAGE.read_text("utf-8"), SAID)
    assert "| until it is installed and durable, s | 9.50 | | |" in page
    assert plots.written(page, SAID) == page


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "bench: put_3 aspen=3000 peer=1500.5 (etcd) ratio=2.00",
            {"name": "put_3", "aspen": 3000.0, "peer": 1500.5, "peer_name": "etcd"},
        ),
        ("bench: snapshot_mb_s aspen=81.5 (900 MB)", {"name": "snapshot_mb_s", "aspen": 81.5}),
        ("# skipped: knot is not installed", None),
    ],
)
def test_figures_are_read_from_what_benchmarks_print(line: str, told: dict[str, object] | None) -> None:
    assert script("bench/__main__.py").figure(line) == told


def test_the_performance_page_shows_the_figures_there_are() -> None:
    plots = script("scripts/plots.py")
    if not plots.FIGURES.exists():
        pytest.skip("no figures are kept yet")
    said = json.loads(plots.FIGURES.read_text("utf-8"))
    page = plots.PAGE.read_text("utf-8")
    assert plots.written(page, said) == page, "run python scripts/plots.py docs/performance.json"
    assert plots.PLOT.read_text("utf-8") == plots.svg(said)


def test_blocks_in_lists_stay_in_them() -> None:
    """The site ends a list at a block that is indented by less than four: the numbers begin anew."""
    for page in (ROOT / "docs").glob("*.md"):
        for indentation in re.findall(r"^( *)```", page.read_text("utf-8"), re.MULTILINE):
            assert len(indentation) in (0, 4), page.name
