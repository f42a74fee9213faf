"""Names as people type them: labels that aren't ASCII become A-labels (IDNA 2008, mapped by UTS 46).

What became of a name is said. Escapes (`\\252`) are for who means octets: a name with one stays as it is.
"""

from __future__ import annotations

import re
import sys
from typing import Final

import typer

from aspen.errors import InputError

_DOTS: Final = re.compile("[.\u3002\uff0e\uff61]")
_END_IN_NAME: Final = frozenset({"AFSDB", "CNAME", "DNAME", "KX", "MX", "NS", "PTR", "RT", "SRV"})
"""Types whose data ends in a name."""


def ascii_name(text: str) -> str:
    """The name as it stands in DNS. Raises `InputError`."""
    if text.isascii() or "\\" in text:
        return text
    import idna  # on the way to a rare name only

    try:
        text.encode()
        labels = (
            label if label.isascii() else idna.encode(label, uts46=True).decode()
            for label in _DOTS.split(text)
        )
        name = ".".join(labels)
    except idna.IDNAError as error:
        raise InputError(f"{text!r} can't be a name in DNS: {error}") from None
    except UnicodeEncodeError:
        raise InputError(f"{text!r} is not UTF-8 text") from None
    print(f"{text} is written {name} in DNS", file=sys.stderr)
    return name


def ascii_data(rrtype: str, data: str) -> str:
    """A record's data, if it is or ends in a name. Raises `InputError`."""
    name = name_in_data(rrtype, data)
    return data.removesuffix(name) + ascii_name(name)


def warn_of_missing_dot(name: str, zone: str) -> None:
    """A name that ends like its zone was hardly meant to be relative to it."""
    bare = zone.rstrip(".")
    if bare and f".{name}".lower().endswith(f".{bare}".lower()):
        print(
            f"warning: {name} has no final dot, so it stands for {name}.{bare}.; the name itself is {name}.",
            file=sys.stderr,
        )


def name_in_data(rrtype: str, data: str) -> str:
    """The name that a record's data is or ends in; empty if there is none."""
    return data.rpartition(" ")[2] if rrtype.upper() in _END_IN_NAME else ""


def name_argument(text: str) -> str:
    """A callback for names that must be given: a shell variable may have been meant."""
    if not text:
        raise typer.BadParameter("it is empty: the root is written '.', a zone's own name '@'")
    try:
        return ascii_name(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None


def name_option(text: str | None) -> str | None:
    """The same for one that may be left out."""
    return None if text is None else name_argument(text)


def name_options(texts: list[str] | None) -> list[str] | None:
    return None if texts is None else [name_argument(text) for text in texts]
