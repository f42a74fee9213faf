"""The dashboard, `/ui`: files that the node carries, served as they are.

They are read once, at the start: what isn't there then can't be asked for, whatever a path says. Nothing in
them is secret, so they are served without the token that guards what they show; the page asks for it.
The policy lets the page load and ask its own origin only, and run or style nothing that stands in
its HTML; text of records and keys could not become markup even if a script put it there.
"""

from __future__ import annotations

from hashlib import blake2b
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from aiohttp import web

from aspen.errors import HttpError
from aspen.http.openapi import Answer, Operation, Parameter
from aspen.http.request import query_of
from aspen.http.routing import Request, Router

PATH: Final = "/ui"
INDEX: Final = "index.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    # Asked for each time, answered 304: a node of another version has another page.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NO_PARAMETERS: Final[frozenset[str]] = frozenset()
_SHOWN: Final = {media_type.partition(";")[0]: {"type": "string"} for media_type in _TYPES.values()}


class _File(NamedTuple):
    body: bytes
    etag: str
    media_type: str


class UiRoutes:
    """The handlers, over the files in `aspen/ui`."""

    def __init__(self) -> None:
        self._files = {name: _read(name, entry) for name, entry in _entries()}

    @property
    def names(self) -> list[str]:
        """Of the files there are."""
        return sorted(self._files)

    def add_routes(self, admin: Router) -> None:
        page = Operation(
            "The dashboard", {308: Answer("It is at `/ui/`.", headers={"Location": "Where."})}, tag="ui"
        )
        file = Operation(
            "A file of the dashboard",
            {
                200: Answer("The file.", _SHOWN, {"ETag": "Of its content."}),
                304: Answer("The client has it."),
            },
            {404: "There is no such file."},
            tag="ui",
        )
        name = Parameter("file", "Its name; none is the page itself.", {"enum": self.names}, where="path")
        admin.add(PATH, {"GET": self.redirect}, public=False, page=True, operations={"GET": page})
        admin.add(
            PATH + "/",
            {"GET": self.get},
            public=False,
            page=True,
            operations={"GET": file},
            parameter=name,
        )

    async def redirect(self, request: Request, _rest: str) -> web.StreamResponse:
        """The page's own links are relative to the folder."""
        query_of(request, _NO_PARAMETERS)
        return web.Response(status=308, headers={**_HEADERS, "Location": "ui/"})

    async def get(self, request: Request, name_untrusted: str) -> web.StreamResponse:
        query_of(request, _NO_PARAMETERS)
        found = self._files.get(name_untrusted or INDEX)
        if found is None:
            raise HttpError(404, "not_found", "the dashboard has no such file")
        headers = {**_HEADERS, "ETag": f'"{found.etag}"'}
        if any(tag.value in (found.etag, "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=found.body, headers={**headers, "Content-Type": found.media_type})


def _entries() -> list[tuple[str, Traversable]]:
    folder = files("aspen") / "ui"
    return [(each.name, each) for each in folder.iterdir() if _suffix(each.name) in _TYPES]


def _read(name: str, entry: Traversable) -> _File:
    body = entry.read_bytes()
    return _File(body, blake2b(body, digest_size=12).hexdigest(), _TYPES[_suffix(name)])


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]
