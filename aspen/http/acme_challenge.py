"""Answers to an ACME authority's challenges (RFC 8555 §8.3), on any node of the cluster.

The leader, who orders certificates, has put the answer into the replicated settings; the authority may
come to another node before that has applied it, so one that doesn't know asks the leader how far it is.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from aiohttp import web

from aspen.http.errors import problem
from aspen.http.routing import Request, Router
from aspen.state.ports import Consistency, Proposer
from aspen.tls.acme import CHALLENGE

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{20,128}")


class Settings(Protocol):
    """The replicated settings, as this node has them."""

    def get(self, name: str) -> bytes | None: ...


class AcmeChallengeRoutes:
    """The handler."""

    def __init__(self, settings: Settings, proposer: Proposer) -> None:
        self._settings = settings
        self._proposer = proposer

    def add_routes(self, public: Router) -> None:
        public.add("/.well-known/acme-challenge/", {"GET": self.get}, public=True)

    async def get(self, _request: Request, token_untrusted: str) -> web.StreamResponse:
        answer = None
        if _TOKEN.fullmatch(token_untrusted):
            answer = self._settings.get(CHALLENGE + token_untrusted)
            if answer is None:
                await self._proposer.barrier(Consistency.CONSISTENT)
                answer = self._settings.get(CHALLENGE + token_untrusted)
        if answer is None:
            return problem(404, "not_found", "no challenge has this token")
        headers = {"Content-Type": "application/octet-stream", "Cache-Control": "no-store"}
        return web.Response(body=answer, headers=headers)
