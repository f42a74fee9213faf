"""Aspen: a Raft-replicated DNS and pkarr server."""

__version__ = "0.1.0"
