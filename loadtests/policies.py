"""How order management systems usually choose who ships: three routing rules on a table of stock, for comparison.

    nearest       walk the nodes from the destination outwards; each gives what it has of what is still missing. This is
                  what source selection by distance does.
    priority      walk the nodes in one fixed order, warehouses before stores. Source selection by priority.
    fewest_nodes  the smallest set of nodes that has everything, nearest first. "Minimise split fulfilments".

None knows a tariff. A line's quantity may come from several nodes. Pure: stock is read, never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Take(NamedTuple):
    """Units of a line (its place in the order) from a node (its index)."""

    node: int
    line: int
    units: int


def walk(nodes: Sequence[int], need: np.ndarray, have: np.ndarray) -> list[Take] | None:
    """Serve from the nodes in turn. need[l] = units, have[l, n] = units at every node; None = not all can be served."""
    left = need.copy()
    takes: list[Take] = []
    for node in nodes:
        given = np.minimum(left, have[:, node])
        if not given.any():
            continue
        takes += [Take(int(node), line, int(given[line])) for line in np.flatnonzero(given).tolist()]
        left -= given
        if not left.any():
            return takes
    return None


def fewest_nodes(nodes: Sequence[int], need: np.ndarray, have: np.ndarray) -> list[Take] | None:
    """The least number of nodes, exact up to two and greedy beyond; among equals the first of `nodes` (the nearest)."""
    by_rank = have[:, list(nodes)]
    gives = np.minimum(by_rank, need[:, None])
    whole = np.flatnonzero((gives == need[:, None]).all(axis=0))
    if len(whole):
        return walk([nodes[int(whole[0])]], need, have)
    some = np.flatnonzero(gives.any(axis=0))
    pairs = np.triu((gives[:, some, None] + gives[:, None, some] >= need[:, None, None]).all(axis=0), 1)
    if pairs.any():
        first, second = np.nonzero(pairs)
        best = int(np.argmin(some[first] + some[second]))
        return walk([nodes[int(some[first[best]])], nodes[int(some[second[best]])]], need, have)
    left, chosen, unused = need.copy(), [], by_rank.copy()
    while left.any():
        covered = np.minimum(unused, left[:, None]).sum(axis=0)
        rank = int(np.argmax(covered))
        if not covered[rank]:
            return None
        chosen.append(nodes[rank])
        left -= np.minimum(unused[:, rank], left)
        unused[:, rank] = 0
    return walk(chosen, need, have)
