"""Stock of other systems into a gateway: their places become nodes, and what they saw is compared with what is there.

Shopify's file says "I saw 10, make it 12". It is booked as +2 where the engine says 10, and refused where it says something else: a unit
that ships between the look and the booking stays shipped, and sending a file again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from engine.cli.formats.commerce import SetRow
from engine.cli.formats.own import StockRow
from engine.cli.formats.table import BadRow
from engine.cli.uploads import Uploader, UploadError, refusal_of

SKUS_PER_LOOK = 50
MOVES_PER_CALL = 500
ROWS_PER_ROUND = 5_000
PAGE = 1_000


class Change(NamedTuple):
    row: SetRow
    node_id: str
    units: int
    """To add; negative to take."""


class Summary(NamedTuple):
    """What a run did, or would do."""

    changed: int
    unchanged: int
    units_added: int
    units_taken: int


class Places:
    """Nodes by what another system calls them: told by the caller, else the node's id, else its name."""

    def __init__(self, nodes: Sequence[Mapping[str, Any]], told: Mapping[str, str]) -> None:
        ids = {node["node_id"] for node in nodes}
        unknown = sorted(set(told.values()) - ids)
        if unknown:
            raise UploadError(f"there is no node {', '.join(unknown)}")
        names: dict[str, list[str]] = {}
        for node in nodes:
            names.setdefault(str(node.get("name", "")).casefold(), []).append(node["node_id"])
        self._ids, self._told, self._names = ids, told, names
        self._off = {node["node_id"] for node in nodes if node.get("state", "on") == "off"}

    def node_of(self, place: str) -> str | None:
        if place in self._told:
            return self._told[place]
        if place in self._ids:
            return place
        named = self._names.get(place.casefold(), [])
        return named[0] if len(named) == 1 else None

    def is_off(self, node_id: str) -> bool:
        return node_id in self._off


class StockUploader:
    """Books what a file of another system says. `dry_run` looks and compares, and books nothing. Raises UploadError."""

    def __init__(self, up: Uploader, told: Mapping[str, str], *, dry_run: bool) -> None:
        self._up = up
        self._dry_run = dry_run
        self._places = Places(list(self._documents("/v1/nodes")), told)
        self._unknown_skus: set[str] = set()
        self._changed = self._unchanged = self._added = self._taken = 0

    @property
    def summary(self) -> Summary:
        return Summary(self._changed, self._unchanged, self._added, self._taken)

    def on_nodes(self, rows: Iterable[StockRow | BadRow]) -> Iterator[StockRow | BadRow]:
        """Rows whose place has become a node; those without one are bad."""
        for row in rows:
            if isinstance(row, BadRow):
                yield row
                continue
            node_id = self._places.node_of(row.node_id)
            yield BadRow(row.line, self._no_node(row.node_id)) if node_id is None else row._replace(node_id=node_id)

    def _no_node(self, place: str) -> str:
        return f"no node is called {place!r}: say which it is with --node '{place}=NODE'"

    # -- compare and set ------------------------------------------------------------------------------------------

    def set_units(self, rows: Iterable[SetRow | BadRow]) -> None:
        """Compare, then book the differences, node by node, some thousand rows at a time."""
        part: list[tuple[SetRow, str]] = []
        for row in self._up.good(rows):
            node_id = self._places.node_of(row.place)
            if node_id is None:
                self._up.outcome.refuse(row.line, "unknown_place", self._no_node(row.place))
            elif self._places.is_off(node_id):
                self._up.outcome.refuse(row.line, "node_off", f"node {node_id} is off: its stock is not shown")
            else:
                part.append((row, node_id))
            if len(part) == ROWS_PER_ROUND:
                self._round(part)
                part = []
        self._round(part)

    def _round(self, part: list[tuple[SetRow, str]]) -> None:
        there = self.on_hand([row.sku for row, _ in part])
        changes: dict[str, list[Change]] = {}
        for row, node_id in part:
            if row.sku in self._unknown_skus:
                self._up.outcome.refuse(row.line, "unknown_sku", f"no item {row.sku!r}")
                continue
            now_units = there.get((node_id, row.sku), 0)
            if now_units == row.new_units:
                self._unchanged += 1
                self._up.outcome.taken += 1
            elif row.seen_units is not None and row.seen_units != now_units:
                detail = (
                    f"{row.sku} at {node_id}: the file saw {row.seen_units}, there are {now_units} by now; left alone"
                )
                self._up.outcome.refuse(row.line, "changed", detail)
            else:
                changes.setdefault(node_id, []).append(Change(row, node_id, row.new_units - now_units))
                there[node_id, row.sku] = row.new_units
        for node_id, wanted in sorted(changes.items()):
            for start in range(0, len(wanted), MOVES_PER_CALL):
                self._book(node_id, wanted[start : start + MOVES_PER_CALL])
        self._up.advance()

    def _book(self, node_id: str, changes: list[Change]) -> None:
        if not self._dry_run:
            moves = [
                {"sku": one.row.sku, "kind": "adjusted", "quantity": one.units, "reason": f"import line {one.row.line}"}
                for one in changes
            ]
            body = msgspec.json.encode({"node_id": node_id, "moves": moves})
            response = self._up.send("POST", "/v1/inventory/adjustments", body, "application/json")
            if response.status_code != 200:
                for one in changes:
                    self._up.outcome.refuse(one.row.line, "refused", refusal_of(response))
                return
        for one in changes:
            self._changed += 1
            self._added += max(0, one.units)
            self._taken += max(0, -one.units)
        self._up.outcome.taken += len(changes)

    # -- looking --------------------------------------------------------------------------------------------------

    def compare(self, rows: Iterable[StockRow | BadRow]) -> None:
        """A dry run of absolute counts: which rows would change what."""
        part: list[StockRow] = []
        for row in self._up.good(self.on_nodes(rows)):
            part.append(row)
            if len(part) == ROWS_PER_ROUND:
                self._compare_round(part)
                part = []
        self._compare_round(part)

    def _compare_round(self, part: list[StockRow]) -> None:
        there = self.on_hand([row.sku for row in part])
        for row in part:
            if row.sku in self._unknown_skus:
                self._up.outcome.refuse(row.line, "unknown_sku", f"no item {row.sku!r}")
                continue
            difference = row.quantity - there.get((row.node_id, row.sku), 0)
            self._changed += difference != 0
            self._unchanged += difference == 0
            self._added += max(0, difference)
            self._taken += max(0, -difference)
            self._up.outcome.taken += 1
        self._up.advance()

    def on_hand(self, skus: Iterable[str]) -> dict[tuple[str, str], int]:
        """Units by (node, SKU), zeros left out, nodes that ship and nodes that only hand out alike."""
        wanted = [sku for sku in dict.fromkeys(skus) if sku not in self._unknown_skus]
        found: dict[tuple[str, str], int] = {}
        for start in range(0, len(wanted), SKUS_PER_LOOK):
            for method in ("ship", "pickup"):
                self._look(wanted[start : start + SKUS_PER_LOOK], method, found)
        return found

    def _look(self, skus: list[str], method: str, found: dict[tuple[str, str], int]) -> None:
        """Halves the list where the gateway does not know one of it."""
        skus = [sku for sku in skus if sku not in self._unknown_skus]
        if not skus:
            return
        query = [("sku", sku) for sku in skus] + [("method", method)]
        response = self._up.send("GET", "/v1/availability", None, "", params=query)
        if response.status_code == 422:
            if len(skus) == 1:
                self._unknown_skus.add(skus[0])
                return
            half = len(skus) // 2
            self._look(skus[:half], method, found)
            self._look(skus[half:], method, found)
            return
        if response.status_code != 200:
            raise UploadError(refusal_of(response))
        for position in response.json()["data"]:
            found[position["node_id"], position["sku"]] = position["on_hand"]

    def _documents(self, path: str) -> Iterator[dict[str, Any]]:
        cursor = None
        while True:
            params: list[tuple[str, str | int]] = [("limit", PAGE), *([("cursor", cursor)] if cursor else [])]
            response = self._up.send("GET", path, None, "", params=params)
            if response.status_code != 200:
                raise UploadError(refusal_of(response))
            page = response.json()
            yield from page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return
