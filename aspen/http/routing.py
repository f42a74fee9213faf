"""Which handler answers which path: exact paths first, then the longest prefix that matches.

No patterns: a path is one dictionary look-up, or a prefix and the rest of the path as its sender
spelled it, percent escapes and all. A handler that takes bytes there (a key of the key-value
store) unquotes them itself, so none is lost to a URL library's idea of a normal form.

Each route says what it does (`operations`); the OpenAPI document is made of that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from aiohttp import web

from aspen.errors import invariant
from aspen.http.openapi import Described, Operation, Parameter

Request = web.BaseRequest
Handler = Callable[[Request, str], Awaitable[web.StreamResponse]]
"""Takes the request and what follows its route's prefix in the path (`""` on an exact path)."""


class Route(NamedTuple):
    handlers: Mapping[str, Handler]
    public: bool
    """Open to every web page (CORS `*`); otherwise guarded as an admin route."""
    page: bool = False
    """Of the dashboard: guarded as admin routes are, but without the token, which the page asks for."""

    @property
    def methods(self) -> list[str]:
        """What it answers to, for `Allow`."""
        methods = set(self.handlers)
        if "GET" in methods:
            methods.add("HEAD")
        if self.public:
            methods.add("OPTIONS")
        return sorted(methods)


class Router:
    """A table of routes. Add all of them before serving."""

    def __init__(self) -> None:
        self._exact: dict[str, Route] = {}
        self._prefixes: list[tuple[str, Route]] = []
        self.described: list[Described] = []
        """What the OpenAPI document shows."""

    def add(
        self,
        path: str,
        handlers: Mapping[str, Handler],
        *,
        public: bool,
        page: bool = False,
        operations: Mapping[str, Operation] | None = None,
        parameter: Parameter | None = None,
    ) -> None:
        """Serve `path`; a path that ends with a slash stands for everything below it too.

        `operations` describes each method, `parameter` what follows the slash.
        """
        route = Route(handlers, public, page)
        if operations is not None:
            invariant(operations.keys() == handlers.keys(), f"{path}: every method has its description")
            shown = path if parameter is None else f"{path}{{{parameter.name}}}"
            self.described.append(Described(shown, operations, public, parameter))
        if path.endswith("/"):
            self._prefixes.append((path, route))
            self._prefixes.sort(key=lambda item: len(item[0]), reverse=True)
        else:
            self._exact[path] = route

    def describe(
        self, path: str, operations: Mapping[str, Operation], parameter: Parameter, *, public: bool
    ) -> None:
        """Show a path that the handlers of a prefix tell apart by themselves."""
        self.described.append(Described(path, operations, public, parameter))

    def find(self, path: str) -> tuple[Route, str] | None:
        """The route of a path, and the rest of the path."""
        route = self._exact.get(path)
        if route is not None:
            return route, ""
        for prefix, route in self._prefixes:
            if path.startswith(prefix):
                return route, path[len(prefix) :]
        return None

    def joined(self, other: Router) -> Router:
        """A table with the routes of both."""
        both = Router()
        both._exact = {**self._exact, **other._exact}
        both._prefixes = sorted(
            [*self._prefixes, *other._prefixes], key=lambda item: len(item[0]), reverse=True
        )
        both.described = [*self.described, *other.described]
        return both

    @property
    def paths(self) -> list[str]:
        """Of all routes, as they were added."""
        return [*self._exact, *(prefix for prefix, _ in self._prefixes)]
