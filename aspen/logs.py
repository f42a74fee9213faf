"""Logs: one stream on standard error, for people on a terminal, JSON lines otherwise.

Code calls `structlog.get_logger("aspen.part").info("event", key=value)`. Records of the standard
library (aiohttp, aioquic, asyncio) take the same path. No secret leaves: values under names that
sound like secrets are replaced, wherever in an event they stand, and so is what `never_show` was told of.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, Final, TextIO
from urllib.parse import quote

import structlog

from aspen.config import LogFormat, LogLevel
from aspen.limits import LOG_SECRET_CHARS

REDACTED: Final = "[redacted]"
# A name is a secret's if one of these is a word of it: `admin_token`, `X-Cookie`, `secretKey`.
_SECRET_WORDS: Final = frozenset(
    {
        "authorization",
        "cookie",
        "credential",
        "credentials",
        "passphrase",
        "passwd",
        "password",
        "private",
        "secret",
        "seed",
        "signing",
        "ticket",
        "token",
        "tsig",
    }
)
_WORD: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
# `Bearer …`, `cookie=…` and `token: …` inside free text, such as an exception's message. What begins a
# sentence after a colon is none: "token: No such file", "cookie: it is empty".
_IN_TEXT: Final = re.compile(
    r"""(?ix)
    \b( bearer\s+ (?!token\b)
      | (?:admin_token|token|cookie|secret_key|secret|password) ["']?\s*
        (?: = \s* | : \s* (?!(?-i:[A-Za-z]+(?:'[a-z]+)?\ [a-z]+\b)) )
    )
    ( "[^"]*" | '[^']*' | [^\s,;)}\]]+ )
    """
)
_known: set[str] = set()
"""The secrets of this process, which are replaced wherever they stand."""
_DEPTH: Final = 6  # of nested values looked into; anything deeper is replaced

# What libraries say at these levels is about their own workings, not about this node.
_LIBRARY_LEVELS: Final = {
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.WARNING,
    "quic": logging.WARNING,
}


def is_secret_name(name: str) -> bool:
    """Whether a value under this name must not be shown."""
    return any(word.lower() in _SECRET_WORDS for word in _WORD.findall(name))


def never_show(secrets: Iterable[str]) -> None:
    """Replace these, too, in all that is logged from now on; what is short enough to be a word stays."""
    for text in secrets:
        if len(text) >= LOG_SECRET_CHARS:
            _known.update(_spellings(text))


def _spellings(text: str) -> set[str]:
    """As it stands, and as Python, JSON and URLs write it, in whose words others may tell of it."""
    return {text, repr(text)[1:-1], repr(text.encode())[2:-1], json.dumps(text)[1:-1], quote(text, safe="")}


def redact(value: Any, depth: int = 0) -> Any:
    """The value, with what stands under a secret's name or after it in text replaced."""
    if isinstance(value, str):
        for secret in sorted(_known, key=len, reverse=True):
            value = value.replace(secret, REDACTED)
        return _IN_TEXT.sub(rf"\1{REDACTED}", value)
    if depth > _DEPTH:
        return REDACTED
    if isinstance(value, dict):
        return {
            redact(str(key)): REDACTED if is_secret_name(str(key)) else redact(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"  # raw bytes may be a key, and are no reading matter
    if value is None or isinstance(value, int | float):
        return value
    return redact(str(value))  # an exception, say: what it will be printed as


def redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: see `redact`. Runs after exceptions were made text."""
    for key, value in event.items():
        event[key] = REDACTED if is_secret_name(key) else redact(value)
    return event


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging, once at the start of a process."""
    stream = stream if stream is not None else sys.stderr
    people = log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if people else "iso", utc=not people),
        structlog.processors.StackInfoRenderer(),
    ]
    rendering: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact_event,
    ]
    if people:
        rendering.append(structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=32))
    else:
        rendering.append(structlog.processors.JSONRenderer(default=str))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()], processors=rendering
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.value.upper())
    for name, library_level in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(library_level, root.level))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
