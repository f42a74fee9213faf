"""Writes aspen.json, the Grafana dashboard: python deploy/grafana/dashboard.py

The dashboard is a table of panels here, and long JSON there; a test sees to it that one follows the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

FILE: Final = Path(__file__).with_name("aspen.json")
WIDTH: Final = 24
HEIGHT: Final = 8
ALL: Final = 'job="$job", instance=~"$instance"'
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


class Query(NamedTuple):
    expression: str
    legend: str


class Panel(NamedTuple):
    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    meaning: str = ""


def one(expression: str, legend: str = "{{instance}}") -> tuple[Query, ...]:
    return (Query(expression.replace("ALL", ALL), legend),)


def rate(name: str, by: str) -> str:
    return f"sum by ({by}) (rate({name}{{ALL}}[$__rate_interval]))"


def quantiles(name: str, by: str = "instance") -> tuple[Query, ...]:
    """The median and the 99th percentile of a histogram."""
    buckets = f"sum by (le, {by}) (rate({name}_bucket{{{ALL}}}[$__rate_interval]))"
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", f"{{{{{by}}}}} p{text}")
        for share, text in ((0.5, "50"), (0.99, "99"))
    )


ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "The cluster": (
        Panel("Nodes up", one('sum(up{job="$job"})'), kind="stat", width=4),
        Panel(
            "Leader", one("max(aspen_raft_leader_id{ALL})"), kind="stat", width=4, meaning="Node id; 0: none."
        ),
        Panel("Members", one("max(aspen_raft_members{ALL})"), kind="stat", width=4),
        Panel("Packets", one("max(aspen_packets{ALL})"), kind="stat", width=4),
        Panel("Zones", one("max(aspen_zones{ALL})"), kind="stat", width=4),
        Panel(
            "Certificate ends in",
            one("min(aspen_tls_certificate_not_after_timestamp_seconds{ALL}) - time()"),
            unit="s",
            kind="stat",
            width=4,
        ),
        Panel("Queries a second", one(rate("aspen_dns_queries_total", "instance")), unit="reqps"),
        Panel("PUTs a second", one(rate("aspen_pkarr_puts_total", "outcome"), "{{outcome}}"), unit="reqps"),
        Panel(
            "Since a leader was heard",
            one("aspen_raft_last_contact_seconds{ALL}"),
            unit="s",
            meaning="0 on the leader, -1: never.",
        ),
    ),
    "DNS": (
        Panel(
            "Queries by transport",
            one(rate("aspen_dns_queries_total", "transport"), "{{transport}}"),
            unit="reqps",
        ),
        Panel(
            "Queries by response code",
            one(rate("aspen_dns_queries_total", "rcode"), "{{rcode}}"),
            unit="reqps",
        ),
        Panel("Time to answer", quantiles("aspen_dns_response_seconds", "transport"), unit="s"),
        Panel(
            "Answered from ready replies",
            one(
                "sum by (instance) (rate(aspen_dns_udp_ready_replies_total{ALL}[$__rate_interval])) / "
                'sum by (instance) (rate(aspen_dns_queries_total{ALL, transport="udp"}[$__rate_interval]))'
            ),
            unit="percentunit",
        ),
        Panel(
            "Held back and truncated",
            (
                *one(rate("aspen_dns_udp_limited_total", "instance"), "{{instance}} limited"),
                *one(rate("aspen_dns_udp_slipped_total", "instance"), "{{instance}} slipped"),
                *one(rate("aspen_dns_udp_truncated_total", "instance"), "{{instance}} truncated"),
            ),
            unit="reqps",
        ),
        Panel("UDP workers started again", one("increase(aspen_dns_worker_restarts_total{ALL}[1h])")),
    ),
    "Writes": (
        Panel("Stages of a PUT", quantiles("aspen_pkarr_put_stage_seconds", "stage"), unit="s"),
        Panel("A write, as its client sees it", quantiles("aspen_raft_proposal_seconds"), unit="s"),
        Panel(
            "Writes that failed",
            one(rate("aspen_raft_proposal_failures_total", "instance, reason"), "{{instance}} {{reason}}"),
            unit="reqps",
        ),
        Panel("From append to commit, on the leader", quantiles("aspen_raft_commit_seconds"), unit="s"),
        Panel("Applying a transaction", quantiles("aspen_raft_apply_seconds"), unit="s"),
        Panel("Making it durable (fsync)", quantiles("aspen_raft_fsync_seconds"), unit="s"),
        Panel("Writes that wait", one("aspen_raft_proposals_pending{ALL}")),
        Panel(
            "Requests over a limit",
            one(rate("aspen_pkarr_rate_limited_total", "limit"), "{{limit}}"),
            unit="reqps",
        ),
        Panel("Revision of the key-value store", one("aspen_kv_revision{ALL}")),
    ),
    "Raft": (
        Panel(
            "Log",
            (
                *one("aspen_raft_last_index{ALL}", "{{instance}} last"),
                *one("aspen_raft_commit_index{ALL}", "{{instance}} committed"),
                *one("aspen_raft_applied_index{ALL}", "{{instance}} applied"),
            ),
        ),
        Panel("What members lack", one("aspen_raft_peer_lag_entries{ALL}", "node {{peer}}")),
        Panel("On the way to members", one("aspen_raft_peer_inflight_messages{ALL}", "node {{peer}}")),
        Panel("What members have", one("aspen_raft_peer_match_index{ALL}", "node {{peer}}")),
        Panel(
            "Elections and leaders",
            (
                *one("increase(aspen_raft_elections_total{ALL}[10m])", "{{instance}} elections"),
                *one("increase(aspen_raft_leader_changes_total{ALL}[10m])", "{{instance}} leaders"),
            ),
        ),
        Panel("Term", one("aspen_raft_term{ALL}")),
        Panel(
            "Without a leader",
            one("rate(aspen_raft_leaderless_seconds_sum{ALL}[10m])"),
            unit="percentunit",
            meaning="The share of the time in which the node knew of no leader.",
        ),
    ),
    "Between nodes": (
        Panel(
            "Connections",
            one("sum by (instance, protocol) (aspen_quic_connections{ALL})", "{{instance}} {{protocol}}"),
        ),
        Panel(
            "Peers refused",
            one(rate("aspen_quic_refusals_total", "instance, reason"), "{{instance}} {{reason}}"),
        ),
        Panel(
            "Gossip",
            (
                *one("aspen_gossip_known_nodes{ALL}", "{{instance}} known"),
                *one("aspen_gossip_neighbours{ALL}", "{{instance}} neighbours"),
                *one(rate("aspen_gossip_sent_total", "instance"), "{{instance}} sent"),
                *one(rate("aspen_gossip_received_total", "instance"), "{{instance}} received"),
                *one(
                    rate("aspen_gossip_refused_total", "instance, reason"), "{{instance}} refused: {{reason}}"
                ),
            ),
        ),
    ),
    "Relays, of all jobs": (
        Panel(
            "Nodes connected",
            one("sum by (instance) (aspen_relay_clients) > 0"),
            meaning="Those of nodes (relay_server), and those by themselves (aspen relay).",
        ),
        Panel(
            "Passed on",
            one("sum by (instance) (rate(aspen_relay_forwarded_bytes_total[$__rate_interval])) > 0"),
            unit="Bps",
        ),
        Panel(
            "Dropped and refused",
            (
                *one(
                    "sum by (instance, reason) (rate(aspen_relay_dropped_datagrams_total[$__rate_interval]))",
                    "{{instance}} dropped: {{reason}}",
                ),
                *one(
                    "sum by (instance, reason) (rate(aspen_relay_refused_total[$__rate_interval]))",
                    "{{instance}} refused: {{reason}}",
                ),
            ),
        ),
    ),
    "The machines": (
        Panel(
            "Memory",
            (
                *one("process_resident_memory_bytes{ALL}"),
                *one("aspen_dns_worker_resident_memory_bytes{ALL}", "{{instance}} worker {{worker}}"),
            ),
            unit="bytes",
            meaning="What is mapped of the store's file counts, and can be taken back by the system.",
        ),
        Panel(
            "Processor",
            (
                *one("rate(process_cpu_seconds_total{ALL}[$__rate_interval])"),
                *one(
                    "rate(aspen_dns_worker_cpu_seconds_total{ALL}[$__rate_interval])",
                    "{{instance}} worker {{worker}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "Files open",
            (
                *one("process_open_fds{ALL}"),
                *one("aspen_dns_worker_open_fds{ALL}", "{{instance}} worker {{worker}}"),
            ),
        ),
        Panel(
            "Store",
            (
                *one("aspen_store_used_bytes{ALL}", "{{instance}} file"),
                *one("aspen_store_free_bytes{ALL}", "{{instance}} free in it"),
            ),
            unit="bytes",
        ),
        Panel(
            "Tables",
            one("max by (table) (aspen_store_table_bytes{ALL})", "{{table}}"),
            unit="bytes",
        ),
        Panel(
            "Disk free",
            one("aspen_store_disk_free_bytes{ALL} / aspen_store_disk_bytes{ALL}"),
            unit="percentunit",
        ),
    ),
}


def made() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row, members in ROWS.items():
        panels.append(_row(row, y, len(panels) + 1))
        x, y, tallest = 0, y + 1, 0
        for panel in members:
            height = 4 if panel.kind == "stat" else HEIGHT
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            panels.append(_panel(panel, {"x": x, "y": y, "w": panel.width, "h": height}, len(panels) + 1))
            x, tallest = x + panel.width, max(tallest, height)
        y += tallest
    return {
        "uid": "aspen",
        "title": "Aspen",
        "tags": ["aspen", "dns", "raft"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _row(title: str, y: int, number: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "gridPos": place, "collapsed": False, "panels": []}


def _panel(panel: Panel, place: dict[str, int], number: int) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + i),
            "expr": query.expression,
            "legendFormat": query.legend,
            "datasource": SOURCE,
        }
        for i, query in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    def of_label(name: str, query: str, *, several: bool) -> dict[str, Any]:
        return {
            "name": name,
            "type": "query",
            "datasource": SOURCE,
            "query": query,
            "refresh": 2,
            "multi": several,
            "includeAll": several,
            "current": {"text": "All", "value": "$__all"} if several else {},
        }

    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        of_label("job", "label_values(aspen_node_info, job)", several=False),
        of_label("instance", 'label_values(aspen_node_info{job="$job"}, instance)', several=True),
    ]


def text() -> str:
    return json.dumps(made(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
