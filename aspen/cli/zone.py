"""`aspen zone`: authored zones, and the keys that guard them."""

from __future__ import annotations

from aspen.cli import zone_key
from aspen.cli.common import new_app

app = new_app("Authored zones.")
app.add_typer(zone_key.app, name="key")
