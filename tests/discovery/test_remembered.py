"""Addresses outlive a restart, in a file that nothing depends on."""

from __future__ import annotations

from pathlib import Path

from aspen.discovery.remembered import FILE, Remembered
from aspen.identity import Identity

ONE, TWO = (Identity.generate().endpoint_id for _ in range(2))


def test_what_was_written_is_read_and_what_is_not_known_now_stays(tmp_path: Path) -> None:
    Remembered(tmp_path).write([(ONE, (("192.0.2.1", 7300),)), (TWO, (("192.0.2.2", 7300),))])
    again = Remembered(tmp_path)
    assert again.read() == {ONE: (("192.0.2.1", 7300),), TWO: (("192.0.2.2", 7300),)}
    again.write([(ONE, (("192.0.2.9", 7300),)), (TWO, ())])
    assert Remembered(tmp_path).read() == {ONE: (("192.0.2.9", 7300),), TWO: (("192.0.2.2", 7300),)}


def test_who_is_no_member_any_more_is_forgotten(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path)
    remembered.write([(ONE, (("192.0.2.1", 7300),)), (TWO, (("192.0.2.2", 7300),))])
    remembered.write([(ONE, ())])
    assert Remembered(tmp_path).read() == {ONE: (("192.0.2.1", 7300),)}


def test_a_file_that_is_missing_or_nonsense_is_done_without(tmp_path: Path) -> None:
    assert Remembered(tmp_path).read() == {}
    for nonsense in (b"{", b'{"key":[["192.0.2.1",7300]]}', b"[]", b"\xff"):
        (tmp_path / FILE).write_bytes(nonsense)
        assert Remembered(tmp_path).read() == {}
    Remembered(tmp_path / "absent").write([(ONE, (("192.0.2.1", 7300),))])  # no folder: no error
