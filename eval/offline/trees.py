"""The static tree of guesses that is worth most: what verifying a tree could gain over a chain.

Only measured, not served: vLLM verifies chains. As in the paper, the guesses of a place do not
depend on the branch they stand on, so a node is a path of ranks, (0, 2) being the third guess for
the second place after the best guess for the first, and is right with the product of its ranks'
shares, places being taken as independent.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

NODES = 63


def best_tree(shares: Sequence[Sequence[float]], num_nodes: int = NODES) -> dict[str, Any]:
    """Grow the tree node by node, each time by the one that is most likely right.

    Args:
        shares: for each place, how often the true token has rank 0, 1, ...; not rising in rank, the
            tree is the best of its size.
        num_nodes: guesses that are verified at once, beside the token that is known.

    Returns:
        {"nodes": paths of ranks in the order of their worth, "lengths": the expected length of a
        step with the first 1, 2, ... of them, the target's own token included}.
    """
    nodes: list[list[int]] = []
    lengths: list[float] = []
    length = 1.0
    heap: list[tuple[float, tuple[int, ...]]] = []

    def offer(path: tuple[int, ...]) -> None:
        if len(path) <= len(shares) and path[-1] < len(shares[len(path) - 1]):
            value = 1.0
            for place, rank in enumerate(path):
                value *= shares[place][rank]
            if value > 0:
                heapq.heappush(heap, (-value, path))

    offer((0,))
    while heap and len(nodes) < num_nodes:
        value, path = heapq.heappop(heap)
        nodes.append(list(path))
        length -= value
        lengths.append(length)
        offer((*path[:-1], path[-1] + 1))
        offer((*path, 0))
    return {"nodes": nodes, "lengths": lengths}
