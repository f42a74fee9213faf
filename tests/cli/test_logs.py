"""Logs: JSON for programs, lines for people, secrets for nobody."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import structlog

from aspen import logs
from aspen.config import SECRET_SETTINGS, LogFormat, LogLevel


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configured(log_format: LogFormat = LogFormat.JSON, level: LogLevel = LogLevel.INFO) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(log_format, level, stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_when_not_on_a_terminal() -> None:
    stream = configured(LogFormat.AUTO)
    structlog.get_logger("aspen.node").info("node started", node_id=3)
    (event,) = lines(stream)
    assert (event["event"], event["node_id"], event["level"]) == ("node started", 3, "info")
    assert event["logger"] == "aspen.node"
    assert event["timestamp"].endswith("Z")


def test_lines_for_people() -> None:
    stream = configured(LogFormat.CONSOLE)
    structlog.get_logger("aspen.node").info("node started", node_id=3)
    assert "node started" in stream.getvalue()
    assert "node_id=3" in stream.getvalue()


def test_the_standard_library_takes_the_same_path() -> None:
    stream = configured()
    logging.getLogger("aiohttp.server").error("it %s", "broke", extra={"token": "abc"})
    logging.getLogger("aiohttp.access").info("not worth a line")
    (event,) = lines(stream)
    assert (event["event"], event["logger"], event["token"]) == ("it broke", "aiohttp.server", logs.REDACTED)


def test_the_level_filters() -> None:
    stream = configured(level=LogLevel.WARNING)
    structlog.get_logger("aspen.x").info("quiet")
    structlog.get_logger("aspen.x").warning("loud")
    assert [event["event"] for event in lines(stream)] == ["loud"]


def test_every_secret_setting_is_a_secret_name() -> None:
    for path in SECRET_SETTINGS:
        assert logs.is_secret_name(path.rpartition(".")[2])


@pytest.mark.parametrize(
    "name", ["cookie", "adminToken", "X-Api-Token", "SECRET_KEY", "tsig_key", "password"]
)
def test_secret_names(name: str) -> None:
    assert logs.is_secret_name(name)


@pytest.mark.parametrize("name", ["key", "tokens_per_minute", "node_id", "cookies_seen", "endpoint_id"])
def test_other_names(name: str) -> None:
    assert not logs.is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "/run/admin_token: No such file or directory",
        "/etc/cookie: Permission denied",
        "cookie: it is empty",
        "token: can't read /etc/token",
        "a bearer token is required",
    ],
)
def test_a_sentence_is_no_secret(text: str) -> None:
    assert logs.redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "token: hunter22",
        "token: hunter22 for node 2",
        "token: hunter,and more",
        "Cookie: hunter22=abc; b=c",
        'body {"token": "hunter22 and more"}',
        "{'secret_key': 'hunter and more'}",
        "password=hunter and more",
        "secret:hunter",
        "Authorization: Bearer hunter of more",
    ],
)
def test_what_follows_the_name_of_a_secret_is_one(text: str) -> None:
    assert "hunter" not in logs.redact(text)


def test_the_secrets_of_this_node_are_not_shown_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_known", set())
    logs.never_show(["correct horse", "correct horse battery", "node"])
    said = logs.redact(
        {"node": ["found correct horse battery on the node"], "token": "cookie: correct horse"}
    )
    assert said == {"node": [f"found {logs.REDACTED} on the node"], "token": logs.REDACTED}


@pytest.mark.parametrize("secret", ['it\'s "my" c:\\pass wörd', "tab\there/and+there"])
def test_the_secrets_of_this_node_are_not_shown_as_others_write_them(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setattr(logs, "_known", set())
    logs.never_show([secret])
    stream = configured()
    log = structlog.get_logger("aspen.x")
    for written in (repr(secret), json.dumps(secret), quote(secret, safe=""), repr(secret.encode())):
        log.info("a", error=ValueError(f"not good: {written}"))
    log.info("b", by_name={secret: 1})
    try:
        raise ValueError({"given": secret})
    except ValueError:
        log.exception("broken")
    told = lines(stream)
    assert [event.get("error") for event in told[:4]].count(None) == 0
    assert all(str(event).count(logs.REDACTED) == 1 for event in told)


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_no_secret_gets_out(log_format: LogFormat) -> None:
    stream = configured(log_format)
    log = structlog.get_logger("aspen.x")
    log.info("a", cookie="hunter22", nested={"admin_token": "hunter22", "list": [{"secret_key": "hunter22"}]})
    log.info("b", header="Authorization: Bearer hunter22", url="http://x/?token=hunter22&a=1")
    log.info("cookie=hunter22", error=ValueError("bad cookie: 'hunter22'"), raw=b"hunter22")
    try:
        raise ValueError("token=hunter22")
    except ValueError:
        log.exception("broken")
    deep: dict[str, Any] = {"cookie": "hunter22"}
    for _ in range(20):
        deep = {"x": deep}
    log.info("c", deep=deep)
    assert "hunter22" not in stream.getvalue()
    assert "broken" in stream.getvalue()
