"""Stock of other systems into a gateway: their places become nodes, and what they saw is compared with what is there.

Shopify's file says "I saw 10, make it 12". It is booked as +2 where the engine says 10, and refused where it says something else. The shard
that books it compares again (`expected_on_hand`): whatever happens between the look and the booking, a unit that ships stays shipped,
and a file that is sent twice, at once or later, is booked once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import httpx
import msgspec

from engine.cli.formats.commerce import SetRow
from engine.cli.formats.own import StockRow
from engine.cli.formats.table import BadRow
from engine.cli.uploads import Uploader, UploadError, refusal_of

SKUS_PER_LOOK = 50
MOVES_PER_CALL = 500
ROWS_PER_ROUND = 5_000
PAGE = 1_000
TRIES = 5
"""How often a part is compared and booked while others move its stock in between."""
Row = TypeVar("Row")


class Compared(NamedTuple):
    """A row, and what is on hand when its turn comes."""

    row: SetRow
    now_units: int

    @property
    def units(self) -> int:
        """To add; negative to take."""
        return self.row.new_units - self.now_units

    @property
    def is_stale(self) -> bool:
        return self.units != 0 and self.row.seen_units not in (None, self.now_units)

    @property
    def is_due(self) -> bool:
        return self.units != 0 and not self.is_stale


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

    def node_of(self, place: str) -> str | None:
        if place in self._told:
            return self._told[place]
        if place in self._ids:
            return place
        named = self._names.get(place.casefold(), [])
        return named[0] if len(named) == 1 else None


class StockUploader:
    """Books what a file of another system says. `dry_run` looks and compares, and books nothing. Raises UploadError."""

    def __init__(self, up: Uploader, told: Mapping[str, str], *, dry_run: bool) -> None:
        self._up = up
        self._dry_run = dry_run
        self._places = Places(list(self._documents("/v1/nodes")), told)
        self._unknown_skus: set[str] = set()
        self._kits: set[str] = set()

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
        part: list[tuple[str, SetRow]] = []
        for row in self._up.good(rows):
            node_id = self._places.node_of(row.place)
            if node_id is None:
                self._up.outcome.refuse(row.line, "unknown_place", self._no_node(row.place))
            else:
                part.append((node_id, row))
            if len(part) == ROWS_PER_ROUND:
                self._round(part)
                part = []
        self._round(part)

    def _round(self, part: list[tuple[str, SetRow]]) -> None:
        for node_id, rows in _by_node(part).items():
            there = self.on_hand(node_id, [row.sku for row in rows])
            known = [row for row in rows if self._is_known(row)]
            for start in range(0, len(known), MOVES_PER_CALL):
                self._set(node_id, known[start : start + MOVES_PER_CALL], there)
        self._up.advance()

    def _set(self, node_id: str, rows: list[SetRow], there: dict[str, int]) -> None:
        """Where the shard finds other numbers than the look did, the rows are compared anew with those. One that it refuses for what
        it is (a kit, stock that is not counted) keeps none of the others."""
        tries = TRIES
        while True:
            compared = _compare(rows, there)
            due = [one for one in compared if one.is_due]
            refusal = self._book(node_id, due)
            bad = _named_by(refusal, due)
            if bad is not None and refusal is not None:
                self._up.outcome.refuse(bad.row.line, "refused", refusal_of(refusal))
                rows = [row for row in rows if row is not bad.row]
                continue
            by_now = _by_now(refusal)
            tries -= 1
            if not by_now or not tries:
                break
            there.update(by_now)
        for one in compared:
            if one.is_stale:
                saw = f"the file saw {one.row.seen_units}, there are {one.now_units} by now"
                detail = f"{one.row.sku} at {node_id}: {saw}; left alone"
                self._up.outcome.refuse(one.row.line, "changed", detail)
            elif one.is_due and refusal is not None:
                self._up.outcome.refuse(one.row.line, "refused", refusal_of(refusal))
            else:
                there[one.row.sku] = one.row.new_units
                self._up.changes.note(one.units)
                self._up.outcome.taken += 1

    def _book(self, node_id: str, changes: list[Compared]) -> httpx.Response | None:
        """All or none; the answer that refuses them, else None."""
        if self._dry_run or not changes:
            return None
        moves = [
            {
                "sku": one.row.sku,
                "kind": "adjusted",
                "quantity": one.units,
                "reason": f"import line {one.row.line}",
                "expected_on_hand": one.now_units,
            }
            for one in changes
        ]
        body = msgspec.json.encode({"node_id": node_id, "moves": moves})
        response = self._up.send("POST", "/v1/inventory/adjustments", body, "application/json")
        return response if response.status_code != 200 else None

    def _is_known(self, row: SetRow) -> bool:
        """Whether there is such an item, with units of its own, as far as looked; else the row is refused."""
        if row.sku in self._unknown_skus:
            self._up.outcome.refuse(row.line, "unknown_sku", f"no item {row.sku!r}")
        elif row.sku in self._kits:
            self._up.outcome.refuse(row.line, "kit", f"{row.sku} is a kit: count its components")
        else:
            return True
        return False

    # -- looking --------------------------------------------------------------------------------------------------

    def on_hand(self, node_id: str, skus: Iterable[str]) -> dict[str, int]:
        """Units by SKU, as the owner of the node has them, whatever its state and what it offers; no position, no SKU."""
        wanted = [sku for sku in dict.fromkeys(skus) if sku not in self._unknown_skus]
        found: dict[str, int] = {}
        for start in range(0, len(wanted), SKUS_PER_LOOK):
            self._look(node_id, wanted[start : start + SKUS_PER_LOOK], found)
        return found

    def _look(self, node_id: str, skus: list[str], found: dict[str, int]) -> None:
        """Naming the node shows what lies there though it is not for sale. Halves the list where one of it is not known."""
        query = [("sku", sku) for sku in skus] + [("node_id", node_id), ("consistency", "strict")]
        response = self._up.send("GET", "/v1/availability", None, "", params=query)
        if response.status_code == 422 and response.json()["code"] != "unknown_node":
            if len(skus) == 1:
                self._unknown_skus.add(skus[0])
                return
            half = len(skus) // 2
            self._look(node_id, skus[:half], found)
            self._look(node_id, skus[half:], found)
            return
        if response.status_code != 200:
            raise UploadError(refusal_of(response))
        for position in response.json()["data"]:
            if position["supply"] == "kit":
                self._kits.add(position["sku"])
            else:
                found[position["sku"]] = position["on_hand"]

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


def _by_node(rows: Iterable[tuple[str, Row]]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for node_id, row in rows:
        found.setdefault(node_id, []).append(row)
    return found


def _compare(rows: Iterable[SetRow], there: Mapping[str, int]) -> list[Compared]:
    """In the file's order: a row sees what the rows before it set."""
    left = dict(there)
    compared = []
    for row in rows:
        one = Compared(row, left.get(row.sku, 0))
        if one.is_due:
            left[row.sku] = row.new_units
        compared.append(one)
    return compared


def _named_by(refusal: httpx.Response | None, due: list[Compared]) -> Compared | None:
    """The one movement that a request is refused for."""
    if refusal is None or refusal.status_code != 422:
        return None
    pointers = [str(error.get("pointer", "")) for error in refusal.json().get("errors") or []]
    places = [pointer.split("/")[2] for pointer in pointers if pointer.startswith("/moves/")]
    return due[int(places[0])] if places and places[0].isdecimal() and int(places[0]) < len(due) else None


def _by_now(refusal: httpx.Response | None) -> dict[str, int]:
    """Units by SKU where the shard found others than were expected: before the request, as the first row of each says."""
    problem = refusal.json() if refusal is not None and refusal.status_code == 409 else {}
    if problem.get("code") != "stock_changed":
        return {}
    return {error["sku"]: error["on_hand"] for error in reversed(problem["errors"])}
