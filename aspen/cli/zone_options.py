"""Options of zones that several commands share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from aspen.cli.names import name_argument

Name = Annotated[
    str, typer.Argument(metavar="ZONE", help="The zone's name, like example.com.", callback=name_argument)
]
DefaultTtl = Annotated[
    int | None,
    typer.Option("--default-ttl", metavar="SECONDS", help="TTL of records that are given none."),
]
ZoneConsistency = Annotated[
    Literal["stale", "consistent", "leader"] | None,
    typer.Option("--zone-consistency", help="How fresh DNS answers from this zone must be."),
]
QueryAcl = Annotated[
    list[str] | None, typer.Option(metavar="NET", help="Networks that may ask; none given: everybody.")
]
TransferAcl = Annotated[
    list[str] | None, typer.Option(metavar="NET", help="Networks that may transfer the zone.")
]
TransferKey = Annotated[list[str] | None, typer.Option(metavar="KEY", help="TSIG keys that may.")]
UpdateAcl = Annotated[
    list[str] | None, typer.Option(metavar="NET", help="Networks that may update it by DNS.")
]
UpdateKey = Annotated[list[str] | None, typer.Option(metavar="KEY", help="TSIG keys that may.")]
Notify = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS", help="Secondaries to tell of changes: ADDRESS, ADDRESS:PORT; then #KEY to sign."
    ),
]


def settings_of(**given: Any) -> dict[str, Any]:
    """The settings that were given; a list of one empty text empties the list."""
    return {
        name: [entry for entry in value if entry] if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }
