"""The OpenAPI document (OpenAPI 3.1), made of the routes themselves so that it can't drift from them.

Whoever adds a route to the `Router` describes each of its methods by an `Operation`; what the server
adds to all of them (HEAD, OPTIONS, the guard's and the parser's errors) is added here. Bodies are
given as the msgspec types that decode and encode them, and their JSON Schema follows.

What a bad request gets is told too: `errors` maps a status to when it comes. Every error has the
same body, `Problem`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

JSON: Final = "application/json"
BINARY: Final = {"type": "string", "format": "binary"}
"""A schema: bytes as they are."""
_COMPONENTS: Final = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path or query, or a header."""

    name: str
    description: str
    schema: Mapping[str, object] = field(default_factory=lambda: {"type": "string"})
    """JSON Schema."""
    where: str = "query"
    """`path`, `query` or `header`."""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries: media type → msgspec type or JSON Schema."""

    media: Mapping[str, object]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no error."""

    description: str
    media: Mapping[str, object] = field(default_factory=dict)
    """Media type → msgspec type or JSON Schema."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name → what it says."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route."""

    summary: str
    answers: Mapping[int, Answer]
    errors: Mapping[int, str] = field(default_factory=dict)
    """Status → when it comes. 400 and 503 can come always and need not be named."""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    description: str = ""
    tag: str = ""


class Problem(msgspec.Struct):
    """Every error: `error` for programs, `reason` for people."""

    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class Described:
    """A route as the document shows it."""

    path: str
    """With `{name}` where the route's parameter stands."""
    operations: Mapping[str, Operation]
    """By method, in capitals."""
    public: bool
    parameter: Parameter | None = None
    """What stands in the path."""


_COMMON: Final = {400: "The request is malformed.", 503: "The node or the cluster can't now; try again."}
_READS_BODY: Final = {
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "Bodies are taken as they are, without a Content-Encoding.",
}
_GUARDED: Final = {401: "The bearer token is missing or wrong.", 403: "Not for pages of other origins."}


def document(routes: Iterable[Described], *, version: str) -> dict[str, Any]:
    """The whole document, ready to become JSON."""
    described = sorted(routes, key=lambda route: route.path)
    types = [
        kind for route in described for operation in route.operations.values() for kind in _types(operation)
    ]
    _, components = msgspec.json.schema_components(
        list(dict.fromkeys([Problem, *types])), ref_template=_COMPONENTS
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Aspen", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": {route.path: _path_item(route) for route in described},
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(operation: Operation) -> list[object]:
    medias = [answer.media for answer in operation.answers.values()]
    if operation.body is not None:
        medias.append(operation.body.media)
    return [kind for media in medias for kind in media.values() if not isinstance(kind, Mapping)]


def _path_item(route: Described) -> dict[str, Any]:
    item: dict[str, Any] = {
        method.lower(): _operation(route, operation) for method, operation in route.operations.items()
    }
    if "GET" in route.operations:
        item["head"] = _without_bodies(item["get"])
    if route.public:
        item["options"] = {
            "summary": "What is allowed here (CORS)",
            "responses": {
                "204": {"description": "In `Allow` and `Access-Control-Allow-*`."},
                **_problems(_COMMON),
            },
        }
    if route.parameter is not None:
        item["parameters"] = [_parameter(route.parameter)]
    return item


def _operation(route: Described, operation: Operation) -> dict[str, Any]:
    errors = dict(_COMMON)
    if operation.body is not None:
        errors |= _READS_BODY
    if not route.public:
        errors |= _GUARDED
    answers = {str(status): _answer(answer) for status, answer in operation.answers.items()}
    shown: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {**answers, **_problems(errors | dict(operation.errors))},
    }
    if operation.description:
        shown["description"] = operation.description
    if operation.tag:
        shown["tags"] = [operation.tag]
    if operation.parameters:
        shown["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.body is not None:
        shown["requestBody"] = {
            "required": operation.body.required,
            "content": _content(operation.body.media),
        }
    if not route.public:
        shown["security"] = [{}, {"token": []}]  # on loopback, no token is needed
    return shown


def _without_bodies(get: Mapping[str, Any]) -> dict[str, Any]:
    responses = {
        status: {name: part for name, part in answer.items() if name != "content"}
        for status, answer in get["responses"].items()
    }
    return {**get, "summary": get["summary"] + ": the headers only", "responses": responses}


def _problems(errors: Mapping[int, str]) -> dict[str, Any]:
    return {
        str(status): {"description": when, "content": _content({JSON: Problem})}
        for status, when in sorted(errors.items())
    }


def _answer(answer: Answer) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": answer.description}
    if answer.media:
        shown["content"] = _content(answer.media)
    if answer.headers:
        shown["headers"] = {
            name: {"description": says, "schema": {"type": "string"}} for name, says in answer.headers.items()
        }
    return shown


def _content(media: Mapping[str, object]) -> dict[str, Any]:
    return {media_type: {"schema": _schema(kind)} for media_type, kind in media.items()}


def _schema(kind: object) -> object:
    if isinstance(kind, Mapping):
        return kind
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_COMPONENTS)
    return schema


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required or parameter.where == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }
