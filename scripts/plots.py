"""Draws the figures of `make bench` and writes them into docs/performance.md.

    python scripts/plots.py bench.json

The file is kept as docs/performance.json; docs/performance.svg and the page's table are made of it.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).parents[1] / "docs"
FIGURES: Final = DOCS / "performance.json"
PLOT: Final = DOCS / "performance.svg"
PAGE: Final = DOCS / "performance.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

LOWER_IS_BETTER: Final = ("_ms", "_s", "_mib", "_us")
WIDTH, ROW, LEFT, RIGHT = 860, 26, 300, 90


def compared(said: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in said["figures"] if each.get("peer") and each["aspen"] > 0]


def factor(each: dict[str, Any]) -> float:
    """How many times as good as the peer, whichever way is good."""
    ratio: float = each["aspen"] / each["peer"]
    return 1 / ratio if each["name"].endswith(LOWER_IS_BETTER) else ratio


def svg(said: dict[str, Any]) -> str:
    """Bars to the right of the middle line are better than the peer, on a logarithmic scale."""
    rows = compared(said)
    widest = max([2.0, *(max(factor(each), 1 / factor(each)) for each in rows)])
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    scale = (WIDTH - LEFT - RIGHT) / 2 / math.log(widest)
    height = ROW * len(rows) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="13">',
        "<title>Aspen beside its peers</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{middle}" y="20" text-anchor="middle">worse than the peer │ better</text>',
    ]
    for number, each in enumerate(rows):
        y = 36 + number * ROW
        end = middle + math.log(factor(each)) * scale
        left, width = min(middle, end), abs(end - middle)
        color = "#2a7f62" if end >= middle else "#b3543a"
        label = escape(f"{each['name']} ({each['peer_name']})")
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{label}</text>',
            f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 8}" fill="{color}"/>',
            f'<text x="{WIDTH - RIGHT + 8}" y="{y + 14}">× {factor(each):.2f}</text>',
        ]
    parts.append(f'<line x1="{middle}" y1="28" x2="{middle}" y2="{height - 16}" stroke="#333"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(said: dict[str, Any]) -> str:
    rows = [
        f"| `{each['name']}` | {_figure(each['aspen'])} | "
        + (
            f"{_figure(each['peer'])} ({each['peer_name']}) | × {factor(each):.2f} |"
            if each.get("peer")
            else "| |"
        )
        for each in said["figures"]
    ]
    head = ["| figure | Aspen | peer | better by |", "|---|---|---|---|"]
    plot = ["![Aspen beside its peers](performance.svg)", ""] if compared(said) else []
    return "\n".join([f"Measured on {said['machine']}.", "", *plot, *head, *rows])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def written(page: str, said: dict[str, Any]) -> str:
    """The page with its figures exchanged."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(said)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    said = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    FIGURES.write_text(json.dumps(said, indent=2) + "\n", "utf-8")
    PLOT.write_text(svg(said), "utf-8")
    PAGE.write_text(written(PAGE.read_text("utf-8"), said), "utf-8")


if __name__ == "__main__":
    main()
