"""TSIG keys over HTTP: added, listed without secrets, exchanged, removed."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog.testing
from http_fakes import Answer, Client

from aspen.dns.name import name_from_text
from aspen.dns.tsig_keys import TsigKeys
from aspen.http.server import HttpServer
from aspen.http.tsig_keys import TsigKeyRoutes
from aspen.state.commands import Command, Result, encode_command
from aspen.state.machine import Machine
from aspen.state.memory_store import MemoryStore
from aspen.state.ports import Consistency, Freshness
from aspen.state.settings import LmdbSettings

SECRET = base64.b64encode(bytes(range(32))).decode()
KEY = "/v1/tsig-keys/transfer.example"


class OneMember:
    """A cluster of one that needs no consensus: what is proposed is applied."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.machine = Machine(self.store)
        self.keys = TsigKeys(LmdbSettings(self.store))
        self.index = 0

    async def propose(self, command: Command) -> Result:
        self.index += 1
        with self.store.write() as txn:
            self.machine.begin(txn)
            result = self.machine.apply(txn, self.index, 1_000_000, encode_command(command))
            self.machine.end(txn)
        return result

    async def barrier(self, consistency: Consistency) -> None:
        pass

    def freshness(self) -> Freshness:
        return Freshness(self.index, 1, 0)


@pytest.fixture
def member() -> OneMember:
    return OneMember()


@pytest.fixture
async def http(member: OneMember) -> AsyncIterator[Client]:
    server = HttpServer(listen=("127.0.0.1", 0))
    TsigKeyRoutes(member, member.keys).add_routes(server.admin)
    await server.start()
    client = Client(server.address)
    yield client
    await client.close()
    await server.close()


async def send(http: Client, method: str, path: str, value: Any = None) -> Answer:
    import json

    return await http.request(method, path, None if value is None else json.dumps(value).encode())


async def test_a_key_that_is_given_is_kept_and_never_shown(http: Client, member: OneMember) -> None:
    with structlog.testing.capture_logs() as logs:
        added = await send(http, "PUT", KEY, {"algorithm": "hmac-sha512", "secret": SECRET})
        listed = await send(http, "GET", "/v1/tsig-keys")
    assert added.status == 201
    assert added.json == {"name": "transfer.example.", "algorithm": "hmac-sha512"}
    assert listed.json == {"keys": [{"name": "transfer.example.", "algorithm": "hmac-sha512"}]}
    assert SECRET not in repr(logs)
    key = member.keys.get(name_from_text("transfer.example."))
    assert key is not None
    assert key.secret == bytes(range(32))


async def test_a_key_that_is_made_up_is_told_once(http: Client, member: OneMember) -> None:
    added = await send(http, "PUT", "/v1/tsig-keys/Made.Up.")
    key = member.keys.get(name_from_text("made.up."))
    assert key is not None
    assert added.json["secret"] == base64.b64encode(key.secret).decode()
    assert len(key.secret) == 32
    assert "secret" not in (await send(http, "GET", "/v1/tsig-keys")).body.decode()


async def test_a_key_is_not_exchanged_unless_asked(http: Client, member: OneMember) -> None:
    await send(http, "PUT", KEY, {"secret": SECRET})
    again = await send(http, "PUT", KEY)
    assert (again.status, again.json["error"]) == (409, "key_exists")
    assert (await send(http, "PUT", KEY + "?replace=true")).status == 201
    key = member.keys.get(name_from_text("transfer.example."))
    assert key is not None
    assert key.secret != bytes(range(32))


async def test_a_key_is_removed_and_then_is_not_there(http: Client, member: OneMember) -> None:
    await send(http, "PUT", KEY, {"secret": SECRET})
    assert (await send(http, "DELETE", KEY)).status == 200
    assert (await send(http, "DELETE", KEY)).status == 404
    assert member.keys.all() == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (KEY, {"algorithm": "hmac-md5", "secret": SECRET}),
        (KEY, {"secret": base64.b64encode(b"short").decode()}),
        (KEY, {"secret": base64.b64encode(bytes(600)).decode()}),
        (KEY, {"secret": "not base64!"}),
        (KEY, {"secrets": SECRET}),
        (KEY + "?replace=perhaps", {}),
        (KEY + "?other=1", {}),
        ("/v1/tsig-keys/..", {}),
        ("/v1/tsig-keys/a..b", {}),
        ("/v1/tsig-keys/" + "a" * 64, {}),
        ("/v1/tsig-keys/" + "a." * 140, {}),
        ("/v1/tsig-keys/%ff", {}),
    ],
)
async def test_what_is_no_key_is_refused_and_the_secret_not_repeated(
    http: Client, member: OneMember, path: str, value: Any
) -> None:
    refused = await send(http, "PUT", path, value)
    assert refused.status == 400
    assert SECRET.encode() not in refused.body
    assert "not base64!" not in refused.body.decode()
    assert member.keys.all() == []
