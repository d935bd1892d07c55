"""Visit every state a small model can reach, breadth first, and say how the first broken promise came about."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)
STATES_MAX = 2_000_000


class Result(NamedTuple):
    states: int
    violation: str
    """Empty = none."""
    trace: tuple[str, ...]
    """Names of the steps that lead to it."""


def explore(
    start: S,
    steps: Callable[[S], Iterator[tuple[str, S]]],
    broken: Callable[[S], str],
    *,
    at_rest: Callable[[S], bool] | None = None,
    fair: Callable[[str], bool] = lambda name: True,
    messages_lost: Callable[[S], S] = lambda state: state,
) -> Result:
    """broken(state) names the promise that does not hold, or ''.

    at_rest: liveness. Wherever the faults stop, with all messages under way lost, some path of `fair` steps must lead there.
    """
    came_from: dict[S, tuple[S | None, str]] = {start: (None, "")}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        fault = broken(state)
        if fault:
            return Result(len(came_from), fault, _trace(came_from, state))
        for name, after in steps(state):
            if after not in came_from:
                came_from[after] = (state, name)
                queue.append(after)
        assert len(came_from) < STATES_MAX, "the model is too large"
    if at_rest is not None:
        calm: dict[S, S] = {}
        for state in came_from:
            calm.setdefault(messages_lost(state), state)
        stuck = _stuck(list(calm), steps, at_rest, fair)
        if stuck is not None:
            return Result(len(came_from), f"never at rest again: {stuck}", _trace(came_from, calm[stuck]))
    return Result(len(came_from), "", ())


def _trace(came_from: dict[S, tuple[S | None, str]], state: S) -> tuple[str, ...]:
    names: list[str] = []
    at: S | None = state
    while at is not None:
        at, name = came_from[at]
        names.append(name)
    return tuple(reversed(names[:-1]))


def _stuck(
    starts: list[S],
    steps: Callable[[S], Iterator[tuple[str, S]]],
    at_rest: Callable[[S], bool],
    fair: Callable[[str], bool],
) -> S | None:
    """The first start from which no state at rest can be reached by fair steps."""
    backward: dict[S, list[S]] = {state: [] for state in starts}
    queue = deque(starts)
    while queue:
        state = queue.popleft()
        for name, after in steps(state):
            if fair(name):
                if after not in backward:
                    backward[after] = []
                    queue.append(after)
                backward[after].append(state)
    reached = {state for state in backward if at_rest(state)}
    queue = deque(reached)
    while queue:
        for before in backward[queue.popleft()]:
            if before not in reached:
                reached.add(before)
                queue.append(before)
    return next((state for state in starts if state not in reached), None)
