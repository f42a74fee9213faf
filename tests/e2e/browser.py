"""A real browser for tests: Debian's Chromium, driven by Playwright. A page that complains fails its test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PATIENCE_MS = 30_000
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_HARMLESS = ("status of 401", "status of 404", "status of 503", "ERR_CONNECTION_REFUSED")
"""Chromium reports answers that a page expects, too."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; skips where it isn't installed."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, everything it complained of and every host it asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.urls: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.urls.append(request.url))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) =>"
            " console.error('violation: ' + event.violatedDirective + ' ' + event.blockedURI))"
        )

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(word in text for word in _HARMLESS):
            self.complaints.append(text)

    @property
    def hosts(self) -> set[str]:
        return {urlsplit(url).netloc for url in self.urls if url.startswith(("http", "ws"))}


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page in a profile of its own, at `url`. In the end it must have complained of nothing, and have asked
    the host of `url` alone."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    watched = Watched(context.new_page())
    try:
        watched.page.goto(url)
        yield watched.page
        assert watched.complaints == []
        assert watched.hosts == {urlsplit(url).netloc}
    finally:
        context.close()
