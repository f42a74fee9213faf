"""Profiles: a thread that works is found, one that waits isn't; what is shown, and the flame graph."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET

from aspen.cli.flame import flame_graph
from aspen.profiler import profile


def burn(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(1_000))


def lie_in_wait(stop: threading.Event) -> None:
    stop.wait()


def test_who_works_is_found_and_who_waits_is_not() -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=act, args=(stop,)) for act in (burn, lie_in_wait)]
    for thread in threads:
        thread.start()
    try:
        told = profile(0.5, threading.Event(), {})
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert 0.5 <= told.seconds < 10
    assert told.samples == sum(told.stacks.values()) == sum(told.parts.values()) > 0
    names = {each.name.rpartition(":")[2]: each for each in told.functions}
    assert names["burn"].own > 0.25 * told.samples  # threads of the test runner are looked at, too
    assert names["burn"].total >= names["burn"].own
    assert names["burn"].place.endswith(f"test_profile.py:{burn.__code__.co_firstlineno}")
    assert "lie_in_wait" not in names
    assert any(stack.endswith(":burn") for stack in told.stacks)


def test_a_profile_ends_when_it_is_told_to() -> None:
    stop = threading.Event()
    stop.set()
    assert profile(60, stop, {}).looks == 0


def test_bars_are_as_wide_as_their_share_and_stand_on_their_callers() -> None:
    graph = ET.fromstring(flame_graph({"a:run;b:<left>": 3, "a:run;c:right": 1}, "title & all"))
    space = "{http://www.w3.org/2000/svg}"
    bars = {}
    for group in graph.iter(f"{space}g"):
        title, rect = group.find(f"{space}title"), group.find(f"{space}rect")
        assert title is not None
        assert title.text
        assert rect is not None
        bars[title.text.partition(": ")[0]] = {
            name: float(rect.get(name, "")) for name in ("x", "y", "width")
        }
    assert bars["b:<left>"]["width"] == 3 * bars["c:right"]["width"] == 0.75 * bars["a:run"]["width"]
    assert bars["b:<left>"]["y"] == bars["c:right"]["y"] < bars["a:run"]["y"]
    assert bars["c:right"]["x"] == bars["b:<left>"]["width"]
