"""The addresses at which others were reached, kept in the data directory for the next start (shell).

What the replicated membership says of addresses is as old as the membership. This file is what was true when
the node last looked: so a node that is started again finds the others where they had moved to meanwhile.
Nothing secret is in it, and nothing depends on it: a file that can't be read or written is done without.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from aspen.decoding import UNDECODABLE
from aspen.discovery.messages import Addresses
from aspen.errors import IdentityError
from aspen.limits import REMEMBERED_BYTES
from aspen.z32 import decode_key, encode_key

log = structlog.get_logger("aspen.discovery")

FILE: Final = "addresses.json"
SOURCE: Final = "remembered"

Address = tuple[str, int]
Known = dict[bytes, tuple[Address, ...]]

_DECODER: Final = msgspec.json.Decoder(dict[str, Addresses])


class Remembered:
    """The file of one node."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / FILE
        self._written: Known = {}

    def read(self) -> Known:
        """What was written last; nothing if there is nothing of use."""
        try:
            with open(self._file, "rb") as file:
                told = _DECODER.decode(file.read(REMEMBERED_BYTES))
            self._written = {decode_key(key): addresses for key, addresses in told.items()}
        except FileNotFoundError:
            return {}
        except (OSError, IdentityError, *UNDECODABLE) as error:
            log.warning("remembered addresses can't be read", reason=str(error))
            return {}
        return dict(self._written)

    def write(self, known: Iterable[tuple[bytes, tuple[Address, ...]]]) -> None:
        """Replace the file, if anything has changed: these nodes, no others. Of one that was not reached this
        time, what was known before stays."""
        then = self._written
        now = {key: found for key, addresses in known if (found := addresses or then.get(key, ()))}
        if now == then:
            return
        text = msgspec.json.encode({encode_key(key): addresses for key, addresses in now.items()})
        aside = self._file.with_suffix(".new")
        try:
            aside.write_bytes(text)
            os.replace(aside, self._file)
        except OSError as error:
            log.warning("addresses can't be remembered", reason=str(error))
        else:
            self._written = now
