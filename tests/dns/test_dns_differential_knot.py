"""Our answers beside Knot's, for generated zones; `tests/dns/differential.py` runs thousands of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from differential import compare, generate
from dns_zones import SOA_AND_NS
from knot_peer import KNOTD, knot_serving


@pytest.mark.skipif(KNOTD is None, reason="knotd is not installed")
def test_answers_are_knots_section_by_section(tmp_path: Path) -> None:
    zones = generate(120, seed=7)
    with knot_serving(tmp_path / "knot", [(zone.apex, SOA_AND_NS + zone.text()) for zone in zones]) as knot:
        asked, exceptions, differences = compare(zones, knot, 25, decode=True)
    assert not differences, "\n".join(map(str, differences[:3]))
    assert asked == 120 * 25
    assert sum(exceptions.values()) < asked // 50  # exceptions stay exceptions
