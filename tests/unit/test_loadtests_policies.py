"""The rules that the story compares with: what each takes from where, on tables small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.policies import Take, fewest_nodes, walk


def _table(*rows: list[int]) -> np.ndarray:
    return np.array(rows)


def test_walking_takes_what_each_node_has_until_nothing_is_missing() -> None:
    have = _table([1, 5, 9], [0, 2, 9])
    assert walk([0, 1, 2], np.array([2, 1]), have) == [Take(0, 0, 1), Take(1, 0, 1), Take(1, 1, 1)]
    assert walk([2, 1, 0], np.array([2, 1]), have) == [Take(2, 0, 2), Take(2, 1, 1)]


def test_what_cannot_be_served_whole_is_not_served() -> None:
    have = _table([1, 1])
    assert walk([0, 1], np.array([3]), have) is None
    assert fewest_nodes([0, 1], np.array([3]), have) is None


def test_one_node_that_has_everything_is_preferred_however_far_it_is() -> None:
    have = _table([5, 0, 5], [0, 5, 5])
    assert fewest_nodes([0, 1, 2], np.array([1, 1]), have) == [Take(2, 0, 1), Take(2, 1, 1)]


def test_of_pairs_the_nearest_is_taken() -> None:
    have = _table([5, 0, 0, 5], [0, 5, 0, 0], [0, 0, 0, 0])
    assert fewest_nodes([3, 1, 0, 2], np.array([1, 1, 0]), have) == [Take(3, 0, 1), Take(1, 1, 1)]


def test_where_two_nodes_do_not_do_the_fullest_come_first() -> None:
    have = _table([1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1])
    takes = fewest_nodes([0, 1, 2, 3], np.array([1, 1, 1]), have)
    assert takes is not None
    assert {take.node for take in takes} == {0, 3}
    have = _table([2, 1, 1, 0])
    assert fewest_nodes([3, 2, 1, 0], np.array([4]), have) == [Take(0, 0, 2), Take(2, 0, 1), Take(1, 0, 1)]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_taken_is_what_was_asked_for_and_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    have = rng.integers(0, 3, (4, 9))
    need = rng.integers(1, 4, 4)
    for policy in (walk, fewest_nodes):
        takes = policy(list(range(9)), need, have)
        assert (takes is None) == (have.sum(axis=1) < need).any()
        for take in takes or []:
            assert 0 < take.units <= have[take.line, take.node]
        if takes is not None:
            assert [sum(t.units for t in takes if t.line == line) for line in range(4)] == need.tolist()
