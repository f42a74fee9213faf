"""A running node takes over secrets from a configuration that was read again.

Cookies and admin tokens change in place: connections that are open stay open, new ones are made and asked
by the new secrets. Everything else waits for a restart, and is named.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aspen.config import ClusterBootstrapConfig, settings
from aspen.identity import Cookie
from aspen.node.node import Node

_IN_PLACE: Final = frozenset({"cookie", "cookie_accepted", "admin_token", "admin_token_accepted"})


class Reloaded(NamedTuple):
    taken_over: list[str]
    """Settings that have changed and count from now on."""
    waiting: list[str]
    """Those that have changed and wait for a restart."""
    warnings: list[str]
    """What probably is a mistake in the configuration as it is now."""


def reload(node: Node, config: ClusterBootstrapConfig) -> Reloaded:
    """Take over what can be taken over. Raises `ConfigError` and changes nothing if it can't be used."""
    warnings = config.validate()
    before = {path: value for path, value, _default in settings(node.config)}
    after = {path: value for path, value, _default in settings(config)}
    changed = [path for path in after if after[path] != before.get(path)]
    cookies = [Cookie(text) for text in config.all_cookies]
    node.http.accept_tokens(config.admin_tokens)
    if "cookie" in changed or "cookie_accepted" in changed:
        node.cookies.change(*cookies)
        node.discovery.gossip.announce_soon()
    taken_over = [path for path in changed if path in _IN_PLACE]
    node.config = node.config.replace(**{path: after[path] for path in taken_over})
    return Reloaded(taken_over, [path for path in changed if path not in _IN_PLACE], warnings)
