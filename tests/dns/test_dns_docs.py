"""docs/dns.md names tests and settings: each of them is there, with the default it says."""

from __future__ import annotations

import re
from pathlib import Path

from differential import excused

from aspen.config import DnsServerConfig

TESTS = Path(__file__).parent
DOCUMENT = (TESTS.parents[1] / "docs" / "dns.md").read_text("utf-8")


def test_every_test_named_exists() -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)(…?)`", DOCUMENT))
    assert len(named) > 10
    for name, open_ended in named:
        assert list(TESTS.glob(f"{name}{'*' if open_ended else ''}.py")), name


def test_every_module_named_exists() -> None:
    for name in re.findall(r"`dns/([a-z_]+\.py)`", DOCUMENT):
        assert (TESTS.parents[1] / "aspen" / "dns" / name).exists(), name


def test_every_setting_named_exists() -> None:
    section = DOCUMENT.split("## Settings")[1].split("##")[0]
    settings = [
        name for row in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE) for name in row.split(", ")
    ]
    assert len(settings) > 10
    for name in settings:
        assert hasattr(DnsServerConfig(), name.strip("`")), name


def test_every_exception_beside_knot_is_documented() -> None:
    import inspect

    section = DOCUMENT.split("## Beside Knot")[1]
    source = inspect.getsource(excused)
    used = set(re.findall(r'(?:return|add\()\s*"([a-z-]+)"', source))
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    assert used == documented
