"""TSIG keys over HTTP (RFC 8945): `/v1/tsig-keys` lists them, `/v1/tsig-keys/{name}` sets and removes one.

A secret goes in, and comes out once at most: in the answer to the PUT that had it made up here. No
list, log line or error ever holds one.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Final, Protocol

import msgspec
from aiohttp import web

from aspen.decoding import UNDECODABLE
from aspen.dns.name import name_to_text
from aspen.dns.tsig import ALGORITHMS, TsigKey
from aspen.dns.tsig_keys import encode_key, make_key, setting_name
from aspen.errors import HttpError, InvariantViolation
from aspen.http.errors import json_response
from aspen.http.openapi import JSON, Answer, Body, Operation, Parameter
from aspen.http.request import query_of, read_body, unquote
from aspen.http.routing import Request, Router
from aspen.limits import HTTP_CONTROL_BYTES
from aspen.state.ports import Consistency, Proposer
from aspen.state.settings import SettingDelete, SettingPut, SettingResult

PATH: Final = "/v1/tsig-keys"
_NONE: Final[frozenset[str]] = frozenset()
_PUT_PARAMETERS: Final = frozenset({"replace"})


class KeyReader(Protocol):
    """The keys of the local replica."""

    def all(self) -> list[TsigKey]: ...


class _Put(msgspec.Struct, forbid_unknown_fields=True):
    algorithm: str = "hmac-sha256"
    secret: bytes | None = None
    """None: one is made up, and told in the answer."""

    def __repr__(self) -> str:
        return f"_Put({self.algorithm})"


class KeyShown(msgspec.Struct):
    name: str
    algorithm: str


class KeyRemoved(msgspec.Struct):
    name: str


class KeysShown(msgspec.Struct):
    keys: list[KeyShown]


class KeyAdded(msgspec.Struct, omit_defaults=True):
    name: str
    algorithm: str
    secret: Annotated[bytes | None, msgspec.Meta(description="Only if it was made up by the node.")] = None


_DECODER: Final = msgspec.json.Decoder(_Put)
_NAME: Final = Parameter("name", "The key's name, a domain name.", where="path", required=True)
_EXISTS: Final = "there is a key of this name already"


class TsigKeyRoutes:
    """The handlers, over a way to write and a way to read."""

    def __init__(self, proposer: Proposer, keys: KeyReader) -> None:
        self._proposer = proposer
        self._keys = keys

    def add_routes(self, router: Router) -> None:
        shown = Answer("The keys, by name.", {JSON: KeysShown})
        router.add(
            PATH,
            {"GET": self.get_all},
            public=False,
            operations={
                "GET": Operation("List the TSIG keys, without their secrets.", {200: shown}, tag="zones")
            },
        )
        put = Operation(
            "Add a TSIG key.",
            {201: Answer("It is stored on a quorum.", {JSON: KeyAdded})},
            {409: "There is a key of this name."},
            (Parameter("replace", "Exchange a key that is there.", {"type": "boolean"}),),
            Body({JSON: _Put}, required=False),
            tag="zones",
        )
        gone = Answer("It is gone.", {JSON: KeyRemoved})
        delete = Operation(
            "Remove a TSIG key.", {200: gone}, {404: "There is none of this name."}, tag="zones"
        )
        router.add(
            PATH + "/",
            {"PUT": self.put, "DELETE": self.delete},
            public=False,
            operations={"PUT": put, "DELETE": delete},
            parameter=_NAME,
        )

    async def get_all(self, request: Request, _rest: str) -> web.StreamResponse:
        """`{"keys": [{"name": …, "algorithm": …}, …]}`."""
        query_of(request, _NONE)
        await self._proposer.barrier(Consistency.CONSISTENT)
        keys = [{"name": name_to_text(key.name), "algorithm": key.algorithm.text} for key in self._keys.all()]
        return json_response({"keys": keys}, headers={"Cache-Control": "no-store"})

    async def put(self, request: Request, raw_name: str) -> web.StreamResponse:
        """Add a key: `{"algorithm": …, "secret": base64}`, both optional."""
        replace = query_of(request, _PUT_PARAMETERS).get("replace", b"false")
        if replace not in (b"true", b"false"):
            raise HttpError(400, "bad_query", "replace is true or false")
        body = await read_body(request, HTTP_CONTROL_BYTES)
        try:
            wanted = _DECODER.decode(body or b"{}")
        except UNDECODABLE:
            raise HttpError(400, "bad_json", "not a key: algorithm and secret, in base64") from None
        secret = wanted.secret
        if secret is None:
            algorithm = ALGORITHMS.get(wanted.algorithm)
            secret = secrets.token_bytes(32 if algorithm is None else algorithm.mac_bytes)
        key = make_key(_name(raw_name), wanted.algorithm, secret)
        name = name_to_text(key.name)
        changed = await self._write(
            SettingPut(setting_name(name), encode_key(key), only_if_absent=replace == b"false")
        )
        if not changed:
            raise HttpError(409, "key_exists", _EXISTS)
        answer = KeyAdded(name, key.algorithm.text, secret if wanted.secret is None else None)
        return json_response(msgspec.to_builtins(answer), status=201, headers={"Cache-Control": "no-store"})

    async def delete(self, request: Request, raw_name: str) -> web.StreamResponse:
        query_of(request, _NONE)
        name = _name(raw_name)
        if not await self._write(SettingDelete(setting_name(name))):
            raise HttpError(404, "not_found", "there is no such key")
        return json_response({"name": name})

    async def _write(self, command: SettingPut | SettingDelete) -> bool:
        result = await self._proposer.propose(command)
        if not isinstance(result, SettingResult):
            raise InvariantViolation("a command of settings was answered as if it were another")
        return result.changed


def _name(raw: str) -> str:
    try:
        return unquote(raw).decode("ascii")
    except UnicodeDecodeError:
        raise HttpError(400, "bad_name", "a key's name is a domain name in ASCII") from None
