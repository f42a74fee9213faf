"""Draws docs/figures/gossip.svg from what runs of `gossip_world.py` printed.

python tests/discovery/gossip_world.py --nodes 100 > docs/figures/gossip-100.txt
python tests/discovery/gossip_world.py --nodes 1000 > docs/figures/gossip-1000.txt
python tests/discovery/gossip_figure.py
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
LINE = re.compile(r"\s*(\d+) s\s+known\s+([\d.]+)%\s+messages a node and second\s+([\d.]+)")
COLOURS = ("#0b62a4", "#c2570c", "#2a7d3f", "#7a3e9d")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 860, 300, 56, 34, 44, 70


class Point(NamedTuple):
    second: int
    known_percent: float
    messages: float
    """A node and second, of the last ten."""


def read(file: Path) -> list[Point]:
    rows = [
        (int(m[1]), float(m[2]), float(m[3])) for m in map(LINE.match, file.read_text().splitlines()) if m
    ]
    points, before = [], (0, 0.0)
    for second, known, mean in rows:
        sent = mean * second  # what was printed is the mean since the start
        points.append(Point(second, known, (sent - before[1]) / (second - before[0])))
        before = second, sent
    return points


def panel(
    title: str, runs: dict[int, list[Point]], value: Callable[[Point], float], top_value: float, x0: float
) -> list[str]:
    """One diagram: its frame, a grid, a line for each run."""
    width = (WIDTH - 2 * LEFT - GAP) / 2
    height = HEIGHT - TOP - BOTTOM
    seconds = max(point.second for points in runs.values() for point in points)

    def at(second: float, measured: float) -> str:
        return f"{x0 + width * second / seconds:.1f},{TOP + height * (1 - measured / top_value):.1f}"

    drawn = [f'<text x="{x0}" y="{TOP - 14}" font-weight="bold">{title}</text>']
    for step in range(5):
        y = TOP + height * (1 - step / 4)
        drawn.append(f'<line x1="{x0}" y1="{y:.1f}" x2="{x0 + width:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        drawn.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{top_value * step / 4:g}</text>')
    for second in range(0, seconds + 1, 20):
        x = at(second, 0).partition(",")[0]
        drawn.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{second}</text>')
    drawn.append(
        f'<text x="{x0 + width / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle">seconds of virtual time</text>'
    )
    for colour, (nodes, points) in zip(COLOURS, sorted(runs.items()), strict=False):
        line = " ".join(at(point.second, value(point)) for point in points)
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = at(points[-1].second, value(points[-1])).split(",")
        drawn.append(f'<text x="{float(x) + 4:.1f}" y="{float(y) + 4:.1f}" fill="{colour}">{nodes}</text>')
    return drawn


def draw(runs: dict[int, list[Point]]) -> str:
    most = max(point.messages for points in runs.values() for point in points)
    top = next(step for step in (40, 100, 200, 240, 300, 400, 600, 1_000, 4_000) if step >= most)
    second_x = LEFT + (WIDTH - 2 * LEFT - GAP) / 2 + GAP
    body = [
        *panel("known nodes, per cent", runs, lambda point: point.known_percent, 100, LEFT),
        *panel("messages, a node and second", runs, lambda point: point.messages, top, second_x),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            *body,
            "</svg>\n",
        ]
    )


def main() -> None:
    runs = {int(file.stem.partition("-")[2]): read(file) for file in FIGURES.glob("gossip-*.txt")}
    (FIGURES / "gossip.svg").write_text(draw(runs))
    for nodes, points in sorted(runs.items()):
        last = points[-1]
        print(
            f"{nodes} nodes, {last.second} s: known {last.known_percent:.4f} %, {last.messages:.1f} messages"
        )


if __name__ == "__main__":
    main()
