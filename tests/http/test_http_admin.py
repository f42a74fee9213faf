"""Who gets at the admin routes, from where, and what a node says of its health."""

from __future__ import annotations

import pytest
from http_fakes import Client, FakeCluster, Serve

from aspen.errors import ConfigError
from aspen.http.admin import names_loopback
from aspen.http.health import Check, Health, HealthState
from aspen.http.server import HttpServer

STATUS = "/v1/cluster/status"
TOKEN = "correct horse battery staple"
EVERYWHERE = ("0.0.0.0", 0)


def local(address: tuple[str, int]) -> Client:
    """A client on this machine of a server that listens on every address."""
    return Client(("127.0.0.1", address[1]))


async def test_a_loopback_listener_serves_all(client: Client) -> None:
    answer = await client.get(STATUS)
    assert answer.status == 200
    assert answer.json["leader_id"] == 1
    assert answer.json["members"] == [
        {"node_id": 1, "endpoint_id": "y" * 52, "role": "voter", "addresses": ["127.0.0.1:7300"]}
    ]
    assert "access-control-allow-origin" not in answer.headers
    assert (await client.get(f"{STATUS}?verbose=1")).error == (400, "bad_query")


async def test_a_listener_open_to_the_network_serves_no_admin_routes(serve: Serve) -> None:
    server = await serve(listen=EVERYWHERE)
    assert server.admin_address is None
    client = local(server.address)
    assert (await client.get(STATUS)).error == (404, "not_found")
    assert (await client.get("/v1/kv/a")).error == (404, "not_found")
    assert (await client.put("/v1/kv/a", b"x")).error == (404, "not_found")
    assert (await client.get("/healthz")).status == 200


async def test_unless_a_token_guards_them(serve: Serve) -> None:
    server = await serve(listen=EVERYWHERE, admin_token=TOKEN)
    client = local(server.address)
    for authorization in (
        None,
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer",
        "Bearer \xff",
        f"Bearer {TOKEN}x",
    ):
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await client.get(STATUS, **headers)
        assert answer.error == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN.encode() not in answer.body
    for authorization in (f"Bearer {TOKEN}", f"bearer  {TOKEN}"):
        assert (await client.get(STATUS, Authorization=authorization)).status == 200
    assert (await client.get(STATUS, Authorization=f"Bearer {TOKEN}", Host="aspen.example")).status == 200
    assert (await client.get("/healthz")).status == 200


async def test_a_token_guards_loopback_too_once_it_is_set(serve: Serve) -> None:
    server = await serve(admin_token=TOKEN)
    client = Client(server.address)
    assert (await client.get(STATUS)).error == (401, "unauthorized")


async def test_a_listener_of_their_own(serve: Serve) -> None:
    server = await serve(listen=EVERYWHERE, admin_listen=("127.0.0.1", 0))
    public, admin = local(server.address), Client(server.admin_address)
    assert server.admin_address != server.address
    assert (await public.get(STATUS)).error == (404, "not_found")
    assert (await admin.get(STATUS)).status == 200
    assert (await admin.get("/healthz")).status == 200


async def test_even_on_loopback_admin_routes_leave_the_public_listener_if_they_have_their_own(
    serve: Serve,
) -> None:
    server = await serve(admin_listen=("127.0.0.1", 0))
    assert (await Client(server.address).get(STATUS)).error == (404, "not_found")


def test_an_open_admin_listener_needs_a_token() -> None:
    with pytest.raises(ConfigError, match="admin_token"):
        HttpServer(listen=("127.0.0.1", 0), admin_listen=EVERYWHERE)
    HttpServer(listen=("127.0.0.1", 0), admin_listen=EVERYWHERE, admin_token=TOKEN)


async def test_a_port_in_use_is_a_configuration_error(serve: Serve) -> None:
    server = await serve()
    with pytest.raises(ConfigError, match="can't listen"):
        await serve(listen=server.address)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "aspen.example"}, "forbidden_host"),  # DNS rebinding
        ({"Host": "127.0.0.1.example.org:8080"}, "forbidden_host"),
        ({"Host": ""}, "forbidden_host"),
        ({"Origin": "https://example.org"}, "cross_origin"),
        ({"Origin": "null"}, "cross_origin"),
        ({"Origin": "http://localhost:1"}, "cross_origin"),
        ({"Sec_Fetch_Site": "cross-site"}, "cross_origin"),
        ({"Sec_Fetch_Site": "same-site"}, "cross_origin"),
    ],
)
async def test_web_pages_of_others_are_kept_out(
    client: Client, cluster: FakeCluster, headers: dict[str, str], code: str
) -> None:
    for method, target, body in (("GET", STATUS, None), ("PUT", "/v1/kv/a", b"x"), ("POST", "/v1/kv", b"{}")):
        answer = await client.request(method, target, body, **headers)
        assert answer.error == (403, code)
        assert "access-control-allow-origin" not in answer.headers
    assert cluster.commands == []


async def test_the_target_outweighs_the_host_header(client: Client) -> None:
    assert (await client.get(f"http://aspen.example{STATUS}", Host="localhost")).error == (
        403,
        "forbidden_host",
    )


async def test_pages_of_this_very_origin_and_tools_are_let_in(client: Client) -> None:
    host = f"localhost:{client.address[1]}"
    assert (
        await client.get(STATUS, Host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin")
    ).status == 200
    assert (await client.get(STATUS, Host=host, Sec_Fetch_Site="none")).status == 200
    assert (await client.get(STATUS, Host="[::1]:80")).status == 200


async def test_with_a_token_other_origins_are_refused_all_the_same(serve: Serve) -> None:
    client = Client((await serve(admin_token=TOKEN)).address)
    answer = await client.get(STATUS, Authorization=f"Bearer {TOKEN}", Origin="https://example.org")
    assert answer.error == (403, "cross_origin")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("localhost.:1", True),
        ("127.0.0.1", True),
        ("127.1.2.3:99", True),
        ("[::1]", True),
        ("[::1]:8080", True),
        ("::1", True),
        ("", False),
        (":8080", False),
        ("[]", False),
        ("0.0.0.0:80", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.nip.io", False),
        ("127.0.0.1@example.org", False),
        ("[::1]@example.org", False),
        ("[::1].example.org:80", False),
    ],
)
def test_names_of_this_machine(host: str, loopback: bool) -> None:
    assert names_loopback(host) is loopback


# --- health -----------------------------------------------------------------------------------


_FILLING = Check("disk", HealthState.DEGRADED, "the disk is filling")
_NO_LEADER = Check("leader", HealthState.DEGRADED, "no leader is known")
_FULL = Check("disk", HealthState.UNHEALTHY, "the disk is full")


@pytest.mark.parametrize(
    ("health", "healthz", "readyz", "dns", "whole"),
    [
        (Health((Check("disk"),)), 200, 200, 200, 200),
        (Health((Check("writer"), _FILLING)), 200, 200, 200, 200),
        (Health((_NO_LEADER,), ready=False), 200, 503, 200, 200),
        (Health((_FULL, _NO_LEADER), ready=False), 200, 503, 200, 503),
        (Health((_FULL,), alive=False, answers=False, ready=False), 503, 503, 503, 503),
    ],
)
async def test_health_for_those_who_watch(
    client: Client, cluster: FakeCluster, health: Health, healthz: int, readyz: int, dns: int, whole: int
) -> None:
    cluster.health_now = health
    for path, status, code in (
        ("/healthz", healthz, "unhealthy"),
        ("/readyz", readyz, "not_ready"),
        ("/readyz?for=dns", dns, "not_ready"),
        ("/health", whole, "unhealthy"),
    ):
        answer = await client.get(path)
        assert answer.status == status, path
        assert answer.json["status"] == health.state
        assert answer.json["reasons"] == list(health.reasons)
        if status == 503:
            assert answer.error == (503, code)
            assert answer.json["reason"] == "; ".join(health.reasons)
    assert health.state is max((check.status for check in health.checks), key=list(HealthState).index)


async def test_every_check_is_told(client: Client, cluster: FakeCluster) -> None:
    cluster.health_now = Health((Check("writer"), _FILLING))
    assert (await client.get("/health")).json["checks"] == [
        {"name": "writer", "status": "healthy", "reason": ""},
        {"name": "disk", "status": "degraded", "reason": "the disk is filling"},
    ]


async def test_ready_for_something_unknown(client: Client) -> None:
    assert (await client.get("/readyz?for=mail")).error == (400, "bad_query")
