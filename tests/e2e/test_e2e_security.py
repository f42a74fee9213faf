"""A real node and those who have no business there: every way in, tried without what it takes."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import HOST, NodeProcess
from processes import wait_until

from aspen.identity import Cookie, Cookies, Identity
from aspen.net import endpoint as net
from aspen.net.endpoint import AddressBook, Endpoint, Hello, Service

COOKIE = f"e2e-security-{os.urandom(8).hex()}"
TOKEN = "a-token-for-the-operators-of-this-test"
BY_COOKIE = sorted({net.ALPN_RAFT, net.ALPN_GOSSIP, net.ALPN_JOIN, net.ALPN_FOUND, net.ALPN_PROFILE})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node, a cluster of its own; its admin routes ask for a token."""
    running = NodeProcess(1, tmp_path_factory.mktemp("guarded") / "node-1", cookie=COOKIE)
    running.init = True
    running.settings["ASPEN_ADMIN_TOKEN"] = TOKEN
    try:
        running.start()
        running.wait_ready()
        yield running
    finally:
        running.end_whatever_is_left()


def as_operator(node: NodeProcess, path: str) -> Any:
    return node.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"}).json


def test_every_protocol_is_known_here() -> None:
    """A new one must be looked at: does it ask for the cookie? (`ALPN_TICKET` asks for a signed ticket.)"""
    alpns = {value for name, value in vars(net).items() if name.startswith("ALPN_")}
    assert alpns == {*BY_COOKIE, net.ALPN_TICKET}


@pytest.mark.parametrize("alpn", BY_COOKIE)
async def test_no_protocol_between_nodes_opens_to_another_cookie(node: NodeProcess, alpn: str) -> None:
    stranger = Identity.generate()
    service = Service(alpn=alpn, hello=lambda: Hello(1, bytes(16), 7, os.urandom(8)), admit=lambda peer: None)
    book = AddressBook()
    book.add(node.identity.endpoint_id, (HOST, node.quic_port), "manual")
    endpoint = Endpoint(
        identity=stranger, cookies=Cookies(Cookie("not their cookie")), services=[service], address_book=book
    )
    await endpoint.start(HOST, 0)
    try:
        deadline = time.monotonic() + 30
        while not endpoint.refusals["wrong_cookie"] and time.monotonic() < deadline:
            endpoint.channel(alpn).send(node.identity.endpoint_id, [b"a frame for whoever listens"])
            await asyncio.sleep(0.05)
        assert endpoint.refusals["wrong_cookie"]
        assert endpoint.connections() == []
    finally:
        await endpoint.close()
    peers = as_operator(node, "/v1/peers")["peers"]
    assert stranger.z32 not in {peer["endpoint_id"] for peer in peers}


class Tap(threading.Thread):
    """A wire between a dialler and the node that keeps everything the dialler says."""

    def __init__(self, to: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self._to = to
        self.captured: list[bytes] = []
        self.near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.near.bind((HOST, 0))
        self._far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._far.connect(to)
        self._dialler: Any = None
        self._ended = threading.Event()
        for sock in (self.near, self._far):
            sock.settimeout(0.05)

    def run(self) -> None:
        back = threading.Thread(target=self._back, daemon=True)
        back.start()
        while not self._ended.is_set():
            try:
                data, self._dialler = self.near.recvfrom(65_535)
                self.captured.append(data)
                self._far.send(data)
            except OSError:
                continue
        back.join()
        self.near.close()
        self._far.close()

    def _back(self) -> None:
        while not self._ended.is_set():
            try:
                self.near.sendto(self._far.recv(65_535), self._dialler)
            except OSError:
                continue

    def end(self) -> None:
        self._ended.set()
        self.join(10)


async def test_a_captured_conversation_replayed_opens_nothing(node: NodeProcess) -> None:
    """All datagrams of a dial that succeeded, sent again from elsewhere, the first ones and all of them."""
    friend = Identity.generate()
    alpn = net.ALPN_GOSSIP  # whoever knows the cookie may gossip
    service = Service(alpn=alpn, hello=lambda: Hello(1, bytes(16), 0, os.urandom(8)), admit=lambda peer: None)
    tap = Tap((HOST, node.quic_port))
    tap.start()
    book = AddressBook()
    book.add(node.identity.endpoint_id, (HOST, tap.near.getsockname()[1]), "manual")
    endpoint = Endpoint(
        identity=friend, cookies=Cookies(Cookie(COOKIE)), services=[service], address_book=book
    )
    await endpoint.start(HOST, 0)
    try:
        endpoint.channel(alpn).dial(node.identity.endpoint_id)
        await asyncio.to_thread(wait_until, endpoint.connections, "the friend is let in", 30)
    finally:
        await endpoint.close()
        tap.end()

    def connected() -> list[Any]:
        peers = as_operator(node, "/v1/peers")["peers"]
        return [c for p in peers if p["endpoint_id"] == friend.z32 for c in p["connections"]]

    await asyncio.to_thread(wait_until, lambda: not connected(), "the friend has gone", 40)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.bind((HOST, 0))
        thief.connect((HOST, node.quic_port))
        for _ in range(3):
            for datagram in tap.captured:
                thief.send(datagram)
            await asyncio.sleep(0.3)
            assert connected() == []
    assert as_operator(node, "/v1/cluster/status")["role"] == "leader"  # and it is none the worse


# --- admin routes -----------------------------------------------------------------------------


def described(node: NodeProcess) -> list[tuple[str, str]]:
    """(method, path) of every operation, as the node itself describes them."""
    paths = node.request("GET", "/openapi.json").json["paths"]
    methods = ("get", "put", "post", "delete")
    return [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, operations in paths.items()
        for method in operations
        if method in methods
    ]


# What anyone may ask for. Of `/ui` that is the page itself: what it shows it asks for, with the token.
PUBLIC = (
    "/pkarr/",
    "/key",
    "/v1/packets/watch",
    "/dns-query",
    "/resolve",
    "/healthz",
    "/readyz",
    "/health",
    "/openapi.json",
    "/.well-known/",
    "/ui",
    "/relay",
)


def test_no_admin_route_answers_without_the_token(node: NodeProcess) -> None:
    """Whatever route is added is public, and named above, or asks for the token."""
    asked = [(method, path) for method, path in described(node) if not path.startswith(PUBLIC)]
    assert len(asked) > 25
    for method, path in asked:
        for headers in ({}, {"Authorization": "Bearer of-bad-news-this-is-none"}, {"Authorization": TOKEN}):
            answer = node.request(method, path, b"" if method != "GET" else None, headers=headers)
            assert answer.status == 401, (method, path, headers, answer.status)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
    ],
)
def test_pages_of_others_are_refused_even_with_the_token(node: NodeProcess, headers: dict[str, str]) -> None:
    headers = {**headers, "Authorization": f"Bearer {TOKEN}"}
    assert node.request("GET", "/v1/cluster/status", headers=headers).status == 403


def test_a_node_open_to_the_network_serves_no_admin_route_without_a_token(tmp_path: Path) -> None:
    """Nor to one who comes from this machine, or says so by the Host header."""
    open_node = NodeProcess(1, tmp_path / "open", cookie=COOKIE + "-open")
    open_node.init = True
    command = open_node.command()
    at = command.index("--http-addr") + 1
    command[at] = f"0.0.0.0:{open_node.http_port}"
    open_node.command = lambda: command  # type: ignore[method-assign]
    try:
        open_node.start()
        open_node.wait_ready()
        for path in ("/v1/cluster/status", "/v1/kv", "/metrics", "/v1/peers", "/cluster-ticket"):
            assert open_node.request("GET", path, headers={"Host": "localhost"}).status == 404
        assert "served nowhere" in open_node.log()
    finally:
        open_node.end_whatever_is_left()
