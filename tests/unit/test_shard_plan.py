"""Plans of moves: a drain leaves nothing, a rebalance brings shards closer together and then rests."""

from __future__ import annotations

from engine.client.shard_plan import Owned, Part, PlannedMove, plan_drain, plan_rebalance


def carried_out(owned: Owned, moves: list[PlannedMove]) -> dict[int, list[Part]]:
    after = {shard: list(parts) for shard, parts in owned.items()}
    for move in moves:
        part = next(part for part in after[move.source] if part.name == move.part)
        after[move.source].remove(part)
        after[move.target].append(part)
    return after


def a_cluster() -> dict[int, list[Part]]:
    return {
        0: [Part(f"node:N-{n}", 1_000 * n, n) for n in range(1, 9)] + [Part("band:0", 0, 3)],
        1: [Part(f"slot:US{n}", 300 * n, n) for n in range(100, 120)] + [Part("band:1", 0, 2)],
        2: [],
    }


def weights(owned: Owned, kind: str) -> list[int]:
    return [sum(part.weight for part in parts if part.kind == kind) for parts in owned.values()]


def test_a_drain_moves_everything_and_bands_first() -> None:
    moves = plan_drain(a_cluster(), 1)
    after = carried_out(a_cluster(), moves)
    assert after[1] == []
    assert moves[0].part == "band:1", "nothing new may come while the rest leaves"
    assert len({move.target for move in moves if move.part.startswith("slot:")}) == 2, "to both of the others"


def test_a_rebalance_gives_an_empty_shard_its_share_and_then_rests() -> None:
    before = a_cluster()
    after = carried_out(before, plan_rebalance(before))
    for kind in ("slot", "node"):
        was, now = weights(before, kind), weights(after, kind)
        assert sum(was) == sum(now)
        assert max(now) <= sum(now) / 3 * 1.35, (kind, now)
    assert plan_rebalance(after) == [], "what is even stays"


def test_one_large_part_is_not_moved_to_and_fro() -> None:
    assert plan_rebalance({0: [Part("node:N-1", 9_000, 9)], 1: []}) == []
    assert plan_rebalance({0: []}) == []
