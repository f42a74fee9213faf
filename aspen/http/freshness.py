"""Every read says how old it may be, in headers (see "Consistency" in the architecture)."""

from __future__ import annotations

from aspen.state.ports import Proposer


def freshness_headers(proposer: Proposer) -> dict[str, str]:
    """The state of the replica that a read is answered from. Take it before reading: then what is
    read is at least as new."""
    freshness = proposer.freshness()
    return {
        "Aspen-Applied-Index": str(freshness.applied_index),
        "Aspen-Last-Contact-Ms": str(freshness.last_contact_ms),
        "Aspen-Known-Leader": str(freshness.leader_id),
    }
