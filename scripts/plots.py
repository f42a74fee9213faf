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

PEERS: Final = ("knot", "nsd", "etcd", "etcd leader", "TCP")
"""Programs that do the same; other figures stand beside a bound, or beside Aspen under other conditions."""

SECTIONS: Final = {
    "dns": "DNS over UDP",
    "put": "Writes",
    "net": "QUIC between nodes",
    "snapshot": "A snapshot of a million packets to a member",
    "backup": "A backup of a million packets",
}
MEANS: Final = {
    "dns_hot_qps": "answers a second, 10,000 pkarr names",
    "dns_hot_cpu_us": "… server CPU an answer, µs",
    "dns_hot_nsd_qps": "the same beside NSD",
    "dns_hot_nsd_cpu_us": "… server CPU an answer, µs",
    "dns_million_qps": "answers a second, a million names at random",
    "dns_million_cpu_us": "… server CPU an answer, µs",
    "dns_million_start_ms": "… start until the first answer, ms",
    "dns_million_memory_mib": "… memory of its own, MiB",
    "dns_million_start_of_10000_ms": "… start, ms, beside one with 10,000 names",
    "dns_writes_qps": "answers a second during 300 commits a second",
    "dns_writes_cpu_us": "… server CPU an answer, µs",
    "dns_writes_p99_ms": "… slowest of a hundred at 20,000 queries a second, ms",
    "dns_writes_lost": "… queries without an answer",
    "dns_flood_qps": "answers a second to names that don't exist",
    "dns_flood_cpu_us": "… server CPU an answer, µs",
    "dns_flood_others_p99_ms": "… what others wait meanwhile, slowest of a hundred, ms",
    "dns_flood_others_lost": "… queries of others without an answer",
    "dns_cookies_qps": "answers a second with DNS cookies",
    "dns_cookies_cpu_us": "… server CPU an answer, µs",
    "dns_workers_qps": "answers a second of two workers, on the cores of the load",
    "dns_workers_cpu_us": "… server CPU an answer, µs",
    "dns_workers_scale": "… what a second worker would add, by CPU an answer",
    "dns_zone_qps": "answers a second from a zone of 100,000 names",
    "dns_zone_cpu_us": "… server CPU an answer, µs",
    "put_1node_rps": "PUTs a second, one node, 64 connections",
    "put_1node_p50_ms": "… median, ms",
    "put_1node_p99_ms": "… slowest of a hundred, ms",
    "put_1node_lone_p50_ms": "a lone client, one node, median, ms",
    "put_1node_lone_p99_ms": "… slowest of a hundred, ms",
    "put_3node_rps": "PUTs a second, three nodes, 64 connections",
    "put_3node_p50_ms": "… median, ms",
    "put_3node_p99_ms": "… slowest of a hundred, ms",
    "put_3node_lone_p50_ms": "a lone client, three nodes, median, ms",
    "put_3node_lone_p99_ms": "… slowest of a hundred, ms",
    "put_3node_follower_rps": "PUTs a second to a follower of three, which forwards them",
    "put_3node_follower_p50_ms": "… median, ms",
    "put_3node_follower_lone_p50_ms": "… a lone client, median, ms",
    "net_round_trips": "round trips a second, one after the other",
    "net_pipelined_round_trips": "round trips a second, 64 under way",
    "net_throughput_mb": "MB a second",
    "snapshot_1m_s": "until it is installed and durable, s",
    "snapshot_1m_mb_s": "… MB a second",
    "snapshot_1m_sender_mib": "… more memory of the sender, MiB",
    "snapshot_1m_receiver_mib": "… more memory of the receiver, MiB",
    "snapshot_1m_dns_ms": "… slowest DNS answer of the sender meanwhile, ms",
    "backup_1m_s": "`aspen cluster backup`, s",
    "backup_1m_mb": "… size of the file, MB",
    "backup_1m_node_mib": "… more memory of the node, MiB",
    "backup_1m_dns_ms": "… median DNS answer meanwhile, ms",
    "backup_1m_put_ms": "… median PUT meanwhile, ms",
    "backup_1m_verify_s": "`verify`, s",
    "backup_1m_restore_s": "`restore`, s",
}

LOWER_IS_BETTER: Final = ("_ms", "_s", "_mib", "_us")
WIDTH, ROW, LEFT, RIGHT = 980, 26, 430, 90


def compared(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that stand beside another program, in the order of the page."""
    return [each for name in SECTIONS for each in section(said, name) if each.get("peer_name") in PEERS]


def section(said: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [each for each in said["figures"] if each["bench"] == name]


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
        label = escape(f"{MEANS[each['name']]} ({each['peer_name']})")
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{label}</text>',
            f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 8}" fill="{color}"/>',
            f'<text x="{WIDTH - RIGHT + 8}" y="{y + 14}">× {factor(each):.2f}</text>',
        ]
    parts.append(f'<line x1="{middle}" y1="28" x2="{middle}" y2="{height - 16}" stroke="#333"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(said: dict[str, Any]) -> str:
    head = ["| | Aspen | beside | better by |", "|---|---|---|---|"]
    plot = ["![Aspen beside its peers](performance.svg)", ""] if compared(said) else []
    parts = [f"Measured on {said['machine']}.", "", *plot]
    for name, title in SECTIONS.items():
        if rows := section(said, name):
            parts += [f"### {title}", "", *head, *map(_row, rows), ""]
    return "\n".join(parts[:-1])


def _row(each: dict[str, Any]) -> str:
    beside = (
        f"{_figure(each['peer'])} ({each['peer_name']}) | × {factor(each):.2f}" if each.get("peer") else "|"
    )
    return f"| {MEANS[each['name']]} | {_figure(each['aspen'])} | {beside} |"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


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
