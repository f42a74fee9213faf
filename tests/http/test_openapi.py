"""The OpenAPI document: whole, true to the routes, and served."""

from __future__ import annotations

from typing import Any

import msgspec
from http_fakes import Client, Serve

from aspen.http.openapi import JSON, Answer, Body, Described, Operation, Parameter, document

UNDESCRIBED: set[str] = set()


class Thing(msgspec.Struct):
    """A thing."""

    name: str
    data: bytes


def test_types_become_schemas_and_common_errors_are_added() -> None:
    operation = Operation(
        "Put a thing",
        {200: Answer("Put.", {JSON: Thing}, {"ETag": "Its tag."})},
        {409: "It is there."},
        (Parameter("force", "Whether to.", {"type": "boolean"}),),
        Body({JSON: Thing}),
    )
    path = Parameter("name", "Its name.", where="path")
    made = document([Described("/things/{name}", {"PUT": operation}, False, path)], version="1")
    put = made["paths"]["/things/{name}"]["put"]
    assert set(put["responses"]) == {"200", "400", "401", "403", "408", "409", "413", "415", "503"}
    thing = {"$ref": "#/components/schemas/Thing"}
    assert put["requestBody"] == {"required": True, "content": {JSON: {"schema": thing}}}
    assert put["responses"]["200"]["content"] == {JSON: {"schema": thing}}
    problem = {JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert put["responses"]["409"] == {"description": "It is there.", "content": problem}
    assert set(made["components"]["schemas"]) == {"Problem", "Thing"}
    assert made["paths"]["/things/{name}"]["parameters"][0]["required"] is True


async def test_every_route_is_described(serve: Serve) -> None:
    server = await serve()
    router = server.public.joined(server.admin)
    shown = {route.path.partition("{")[0] for route in router.described}
    assert set(router.paths) - shown - UNDESCRIBED == set()


async def test_the_document_is_that_of_the_listener(serve: Serve) -> None:
    paths: dict[bool, dict[str, Any]] = {}
    for alone in (False, True):
        server = await serve(admin_listen=("127.0.0.1", 0) if alone else None)
        client = Client(server.address)
        answer = await client.get("/openapi.json")
        assert (answer.status, answer.headers["content-type"]) == (200, JSON)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.json["openapi"] == "3.1.0"
        paths[alone] = answer.json["paths"]
        await client.close()
    assert set(paths[True]) >= {"/pkarr/{key}", "/{key}", "/healthz", "/openapi.json"}
    assert "/v1/cluster/status" not in paths[True]  # admin routes have a listener of their own there
    assert set(paths[False]) > set(paths[True])
    assert set(paths[False]["/pkarr/{key}"]) == {"get", "head", "put", "options", "parameters"}
