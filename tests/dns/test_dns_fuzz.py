"""Mutated queries, the committed corpus, and whatever hypothesis thinks of; `fuzz.py` runs a million."""

from __future__ import annotations

import random

import pytest
from fuzz import CORPUS, check, make_queries, make_view, mutate, run
from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.dns.fast import FastResponder
from aspen.dns.lookup import View

QUERIES = make_queries()


@pytest.fixture(scope="module")
def view() -> View:
    return make_view()


def test_the_corpus(view: View) -> None:
    queries = [bytes.fromhex(line) for line in CORPUS.read_text().split()]
    fast = FastResponder(view)
    for query in queries + queries[::-1]:  # the second time with plans at hand
        check(query, view, fast)
    assert len(queries) > 40


def test_well_formed_queries_of_every_kind(view: View) -> None:
    fast = FastResponder(view)
    kinds = {check(query, view, fast) for query in QUERIES}
    assert {kind[1] for kind in kinds if kind} >= {0, 3, 4, 5, 6}


def test_mutated_queries() -> None:
    assert len(run(12_000, seed=20_241_121)) > 40


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(QUERIES), st.integers(min_value=0, max_value=2**32), st.binary(max_size=40))
def test_queries_mutated_by_hypothesis(view: View, query: bytes, seed: int, tail: bytes) -> None:
    fast = FastResponder(view)
    for message in (mutate(query, random.Random(seed)), query[: seed % 40] + tail, query + tail):
        check(message, view, fast)
