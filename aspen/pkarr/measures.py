"""What a relay measures of its PUTs, for metrics."""

from __future__ import annotations

from collections import Counter

from aspen.histogram import Histogram


class PutMeasures:
    """Times of the stages that a PUT passes, and how many ended in which way."""

    __slots__ = ("outcomes", "receive_seconds", "replicate_seconds", "verify_seconds")

    def __init__(self) -> None:
        self.receive_seconds = Histogram()
        """Until the body is here."""
        self.verify_seconds = Histogram()
        """The packet's form and signature."""
        self.replicate_seconds = Histogram()
        """Until the packet is durable on a majority and applied here; only of those that are replicated."""
        self.outcomes: Counter[str] = Counter()
        """`stored`, `known` (the very packet was there already), `older`, `modified`, or an error's code."""

    @property
    def stages(self) -> dict[str, Histogram]:
        return {
            "receive": self.receive_seconds,
            "verify": self.verify_seconds,
            "replicate": self.replicate_seconds,
        }
