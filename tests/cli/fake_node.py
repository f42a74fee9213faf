"""A stand-in for a node's HTTP interface: a few lines of aiohttp, a dict for a store.

What it answers next can be set (`problem`), so that every failure a node can report is at hand.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from aiohttp import web


class FakeNode:
    def __init__(self) -> None:
        self.kv: dict[bytes, bytes] = {}
        self.packets: dict[str, bytes] = {}
        self.tsig: dict[str, tuple[str, str]] = {}
        self.revision = 0
        self.token: str | None = None
        self.problem: tuple[int, dict[str, str] | str] | None = None
        self.requests: list[web.Request] = []
        self.page_size = 1_000
        self.changes: list[tuple[str, Any]] = []
        self.check: dict[str, Any] = {}
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> FakeNode:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def reset(self) -> None:
        self.kv.clear()
        self.tsig.clear()
        self.packets.clear()
        self.requests.clear()
        self.changes.clear()
        self.revision, self.token, self.problem, self.page_size = 0, None, None, 1_000

    def _serve(self) -> None:
        async def main() -> None:
            app = web.Application(middlewares=[self._common])
            app.router.add_get("/v1/kv", self._scan)
            app.router.add_route("*", "/v1/kv/{key:.*}", self._key)
            app.router.add_route("*", "/pkarr/{key}", self._packet)
            app.router.add_get("/v1/cluster/status", self._status)
            app.router.add_post("/v1/cluster/{action}", self._change)
            app.router.add_get("/readyz", self._ready)
            app.router.add_get("/v1/tsig-keys", self._tsig_keys)
            app.router.add_route("*", "/v1/tsig-keys/{name}", self._tsig_key)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            self._started.set()
            await self._ended.wait()
            await runner.cleanup()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(main())

    @web.middleware
    async def _common(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(request)
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response(
                {"error": "unauthorized", "reason": "a bearer token is required"}, status=401
            )
        if self.problem is not None:
            status, body = self.problem
            if status == 0:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            return (
                web.json_response(body, status=status)
                if isinstance(body, dict)
                else web.Response(text=body, status=status)
            )
        return await handler(request)  # type: ignore[no-any-return]

    async def _key(self, request: web.Request) -> web.StreamResponse:
        key = unquote_to_bytes(request.raw_path.split("?")[0].removeprefix("/v1/kv/"))
        if request.method == "PUT":
            self.revision += 1
            self.kv[key] = await request.read()
            return web.json_response({"revision": self.revision, "changed": 1})
        if request.method == "DELETE":
            changed = int(self.kv.pop(key, None) is not None)
            return web.json_response({"revision": self.revision, "changed": changed})
        if key not in self.kv:
            return web.json_response({"error": "not_found", "reason": "no such key"}, status=404)
        return web.json_response(self._entry(key))

    def _entry(self, key: bytes) -> dict[str, Any]:
        return {
            "key": base64.b64encode(key).decode(),
            "value": base64.b64encode(self.kv[key]).decode(),
            "create_revision": 1,
            "mod_revision": self.revision,
            "version": 1,
        }

    async def _scan(self, request: web.Request) -> web.StreamResponse:
        query = dict(pair.split("=") for pair in request.rel_url.raw_query_string.split("&"))
        query |= (
            json.loads(base64.b64decode(query["cursor"].replace("%3D", "="))) if "cursor" in query else {}
        )
        prefix, after = (unquote_to_bytes(query.get(name, "")) for name in ("prefix", "after"))
        limit = min(int(query["limit"]), self.page_size)
        keys = sorted(key for key in self.kv if key.startswith(prefix) and key > after)
        entries = [self._entry(key) for key in keys[:limit]]
        answer = {"entries": entries, "more": len(keys) > limit, "revision": self.revision, "cursor": None}
        if answer["more"]:
            place = {"prefix": query.get("prefix", ""), "after": quote(keys[limit - 1])}
            answer["cursor"] = base64.b64encode(json.dumps(place).encode()).decode()
        return web.json_response(answer)

    async def _packet(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        if request.method == "PUT":
            self.packets[key] = await request.read()
            return web.Response(status=204)
        if key not in self.packets:
            return web.json_response({"error": "not_found", "reason": "no packet"}, status=404)
        return web.Response(body=self.packets[key])

    async def _tsig_keys(self, request: web.Request) -> web.Response:
        keys = [{"name": name, "algorithm": algorithm} for name, (algorithm, _) in self.tsig.items()]
        return web.json_response({"keys": keys})

    async def _tsig_key(self, request: web.Request) -> web.Response:
        name = request.match_info["name"] + "."
        if request.method == "DELETE":
            if self.tsig.pop(name, None) is None:
                return web.json_response({"error": "not_found", "reason": "there is no such key"}, status=404)
            return web.json_response({"name": name})
        wanted = await request.json()
        if name in self.tsig and request.query.get("replace") != "true":
            return web.json_response({"error": "key_exists", "reason": "there is one"}, status=409)
        made_up = {} if "secret" in wanted else {"secret": "bWFkZSB1cA=="}
        self.tsig[name] = (wanted["algorithm"], wanted.get("secret", "bWFkZSB1cA=="))
        return web.json_response({"name": name, "algorithm": wanted["algorithm"], **made_up}, status=201)

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(STATUS)

    async def _change(self, request: web.Request) -> web.StreamResponse:
        action = request.match_info["action"]
        self.changes.append((action, await request.json()))
        if action == "snapshot":
            return web.json_response({"node_id": 2, "applied_index": 40, "first_index": 39})
        return web.json_response(self.check if action == "check" else STATUS)

    async def _ready(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"ready": True})


STATUS = {
    "node_id": 2,
    "leader_id": 1,
    "term": 7,
    "commit_index": 41,
    "applied_index": 40,
    "dns": {"origins": ["example.test"], "port": 5353},
    "members": [
        {"node_id": n, "endpoint_id": "y" * 52, "role": "voter", "addresses": [f"127.0.0.1:{7299 + n}"]}
        for n in (1, 2)
    ],
}
