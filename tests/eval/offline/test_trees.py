"""Static trees: the best of every size, and the chain where there is one guess a place."""

from __future__ import annotations

import itertools
import math

import pytest

from vllm_lmtp.eval.offline.trees import best_tree


def value(path: tuple[int, ...], shares: list[list[float]]) -> float:
    return math.prod(shares[place][rank] for place, rank in enumerate(path))


def test_one_guess_a_place_is_the_chain() -> None:
    found = best_tree([[0.5], [0.4], [0.2]])
    assert found["nodes"] == [[0], [0, 0], [0, 0, 0]]
    assert found["lengths"] == pytest.approx([1.5, 1.7, 1.74])


def test_no_tree_of_its_size_is_better() -> None:
    shares = [[0.5, 0.2, 0.1], [0.45, 0.3], [0.6, 0.05]]
    paths = [p for n in (1, 2, 3) for p in itertools.product(*(range(len(s)) for s in shares[:n]))]
    found = best_tree(shares, 6)
    for size in range(1, 7):
        best = max(
            sum(value(p, shares) for p in chosen)
            for chosen in itertools.combinations(paths, size)
            if all(p[:-1] in chosen or len(p) == 1 for p in chosen)
        )
        assert found["lengths"][size - 1] == pytest.approx(1 + best)


def test_guesses_that_are_never_right_are_not_made() -> None:
    assert best_tree([[0.5, 0.0], [0.0]])["nodes"] == [[0]]
    assert best_tree([[0.0]]) == {"nodes": [], "lengths": []}


def test_the_size_is_kept() -> None:
    shares = [[0.1] * 10] * 6
    assert len(best_tree(shares, 20)["nodes"]) == 20
