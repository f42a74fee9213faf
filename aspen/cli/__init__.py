"""The `aspen` command."""
