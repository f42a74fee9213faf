"""Keys in DNS, from a node's workers: what is set is answered, what is deleted is denied, within a second."""

from __future__ import annotations

from pathlib import Path

import dns.rcode
from clients import texts
from cluster import running
from processes import wait_until


def test_a_key_is_a_txt_record(tmp_path: Path) -> None:
    with running(tmp_path, 1, workers=1, settings={"ASPEN_DNS_SERVER_KV_PREFIX": "dns/"}) as cluster:
        (node,) = cluster
        name = "port.web.kv.aspen.local"
        assert node.dig(name).rcode() == dns.rcode.NXDOMAIN
        assert node.request("PUT", "/v1/kv/dns/web/port", b"8080").status == 200
        wait_until(lambda: texts(node.dig(name)) == ['"8080"'], "it shows", 5)
        assert node.dig("web.kv.aspen.local").rcode() == dns.rcode.NOERROR
        assert node.request("PUT", "/v1/kv/dns/web/port", b"9090").status == 200
        wait_until(lambda: b"9090" in node.dig(name, tcp=True).to_wire(), "the new one, over TCP", 5)
        wait_until(lambda: b"9090" in node.dig(name).to_wire(), "the new one, over UDP", 5)
        assert node.request("DELETE", "/v1/kv/dns/web/port").status == 200
        wait_until(lambda: node.dig(name).rcode() == dns.rcode.NXDOMAIN, "it is gone", 5)
