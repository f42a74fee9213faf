"""Relays: carrying the datagrams of nodes that can't reach each other. docs/relay.md is the guide."""
