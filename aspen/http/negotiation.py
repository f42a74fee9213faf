"""Which of several media types a client wants (RFC 9110 §12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence


def preferred(accept_untrusted: str | None, offers: Sequence[str]) -> str | None:
    """The offer with the highest quality; the first of those alike; None if none is acceptable.

    Without an `Accept`, or with one that says nothing readable, anything is.
    """
    if accept_untrusted is None or not accept_untrusted.strip():
        return offers[0]
    ranges = [_media_range(part) for part in accept_untrusted.split(",") if part.strip()]
    best, best_quality = None, 0.0
    for offer in offers:
        quality = _quality(offer, ranges)
        if quality > best_quality:
            best, best_quality = offer, quality
    return best


def _media_range(text: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = min(max(float(value), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return media_range, quality


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """That of the most specific range that covers the offer."""
    group = offer.partition("/")[0] + "/*"
    for pattern in (offer, group, "*/*"):
        for media_range, quality in ranges:
            if media_range == pattern:
                return quality
    return 0.0
