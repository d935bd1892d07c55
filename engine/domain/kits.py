"""Kits in numbers: a node can make as many of a kit as it has of the component that it has least of; the sum of the nodes is the kit's.

(Not the least of the sums: components of one kit leave from one node.)
"""

from __future__ import annotations

from collections.abc import Callable

from engine.domain.catalog import Catalog
from engine.domain.config import Item


def tracked_components(catalog: Catalog, kit: Item) -> list[tuple[int, int]] | None:
    """(item index, units in one kit) of the components that stock limits; None = one of them is not known here."""
    found: list[tuple[int, int]] = []
    for component in kit.components:
        index = catalog.item_of.get(component.sku)
        item = catalog.items[index] if index is not None else None
        if index is None or item is None:
            return None
        if item.tracked:
            found.append((index, component.quantity))
    return found


def kits_of(components: list[tuple[int, int]], units_of: Callable[[int], int]) -> int:
    """Whole kits that units of the components make; 0 where nothing limits them, as nobody could say how many."""
    return min((max(0, units_of(item)) // each for item, each in components), default=0)
