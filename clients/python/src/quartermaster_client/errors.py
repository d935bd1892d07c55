"""What can go wrong, as one small tree.

QuartermasterError
├── Unreachable             no connection could be made: nothing was sent, nothing was done
├── UnknownOutcome          no answer came; it may or may not have been done. Send it again with the same key
├── InvalidAnswer           what came back is not an answer of this API (a proxy's page, a wrong address)
└── ApiError                the engine refused, and said why (RFC 9457)
    ├── InvalidRequest      400, 413, 415, 422: the request itself
    │   └── KeyReused       the idempotency key was used with another body
    ├── Unauthenticated     401
    ├── Forbidden           403
    ├── NotFound            404
    ├── Conflict            409, and whatever else the state does not allow
    │   ├── OutOfStock      not enough units; `shortages` has the numbers
    │   └── QuoteChanged    what a quote promised cannot be kept; `quoted` and `offered` say what it was and what there is
    ├── VersionMismatch     412, 428: somebody else changed the document
    ├── RateLimited         429
    ├── Unavailable         502, 503, 504: cannot be taken now; `outcome_unknown` where it may have been done all the same, by an
    │                       earlier attempt too
    └── ServerFault         500: a fault of the engine; `request_id` finds it in its log
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """One thing that is wrong: a JSON pointer into the request, a sentence, and numbers under names of their own."""

    pointer: str
    detail: str
    facts: dict[str, Any]


class Shortage(NamedTuple):
    """A line that cannot be filled. Units of `sku`: of a kit that is the component that is short, and `kit` the SKU that was ordered.

    `units_elsewhere` are free, but not for this line: at nodes that cannot serve it (another store, say), or kept for other methods.
    """

    pointer: str
    sku: str
    requested: int
    available_to_promise: int
    line_id: str = ""
    kit: str | None = None
    units_elsewhere: int = 0


class Terms(NamedTuple):
    """Dates, cost and what is left out: of a quote, or of what there is instead."""

    ship_by: datetime | None
    deliver_by: datetime | None
    cost_minor: int
    unfilled_units: int


class QuartermasterError(Exception):
    """Base of all errors of this client."""


class Unreachable(QuartermasterError):
    """No attempt got as far as a connection."""


class UnknownOutcome(QuartermasterError):
    """No answer came, so nobody knows whether it was done. The same call with this `idempotency_key` finds out safely."""

    def __init__(self, what: str, *, idempotency_key: str | None, request_id: str, attempts: int) -> None:
        again = f"; send it again with idempotency_key={idempotency_key!r}" if idempotency_key else ""
        super().__init__(f"{what} after {attempts} attempt{'s' if attempts > 1 else ''}{again}")
        self.idempotency_key = idempotency_key
        self.request_id = request_id
        self.attempts = attempts


class InvalidAnswer(QuartermasterError):
    """The answer is not one of this API."""


class ApiError(QuartermasterError):
    """The engine refused. `code` is one of a closed list (docs/reference/problems.md), stable across versions."""

    def __init__(
        self,
        *,
        status: int,
        code: str,
        title: str,
        detail: str,
        faults: tuple[Fault, ...] = (),
        request_id: str = "",
        retry_after_s: float | None = None,
        idempotency_key: str | None = None,
        attempts: int = 1,
        maybe_done: bool = False,
    ) -> None:
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.faults = faults
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.idempotency_key = idempotency_key
        self.attempts = attempts
        self.maybe_done = maybe_done
        """An earlier attempt may have been done, and this answer came before anybody looked."""
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        parts = [f"{self.status} {self.code}: {self.detail or self.title}"]
        for fault in self.faults[:3]:
            numbers = ", ".join(f"{name}={value}" for name, value in fault.facts.items())
            parts.append(f"{fault.pointer or '/'}: {fault.detail}{f' ({numbers})' if numbers else ''}")
        if len(self.faults) > 3:
            parts.append(f"and {len(self.faults) - 3} more")
        return f"{'; '.join(parts)} [request {self.request_id}]"

    @property
    def outcome_unknown(self) -> bool:
        """Whether it may have been done although it was not answered well."""
        return self.maybe_done or self.status in (502, 504) or self.code in ("unavailable", "key_in_use", "internal")


class InvalidRequest(ApiError):
    pass


class KeyReused(InvalidRequest):
    pass


class Unauthenticated(ApiError):
    pass


class Forbidden(ApiError):
    pass


class NotFound(ApiError):
    pass


class Conflict(ApiError):
    pass


class OutOfStock(Conflict):
    @property
    def shortages(self) -> list[Shortage]:
        """The lines that cannot be filled, with what could have been."""
        return [_shortage(fault) for fault in self.faults]


class QuoteChanged(Conflict):
    @property
    def quoted(self) -> Terms | None:
        """What the quote promised."""
        return self._terms("quoted")

    @property
    def offered(self) -> Terms | None:
        """What there is instead; None = nothing can be sent."""
        return self._terms("offered")

    @property
    def shortages(self) -> list[Shortage]:
        """The lines of which fewer units are left than were quoted."""
        return [_shortage(fault) for fault in self.faults if "requested" in fault.facts]

    def _terms(self, name: str) -> Terms | None:
        found = next((fault.facts[name] for fault in self.faults if fault.facts.get(name)), None)
        if found is None:
            return None
        ship_by, deliver_by = (
            datetime.fromisoformat(text.replace("Z", "+00:00")) if (text := found.get(field)) else None
            for field in ("ship_by", "deliver_by")
        )
        return Terms(ship_by, deliver_by, int(found.get("cost_minor", 0)), int(found.get("unfilled_units", 0)))


def _shortage(fault: Fault) -> Shortage:
    return Shortage(
        fault.pointer,
        str(fault.facts.get("sku", "")),
        int(fault.facts.get("requested", 0)),
        int(fault.facts.get("available_to_promise", 0)),
        str(fault.facts.get("line_id", "")),
        fault.facts.get("kit"),
        int(fault.facts.get("units_elsewhere", 0)),
    )


class VersionMismatch(ApiError):
    pass


class RateLimited(ApiError):
    pass


class Unavailable(ApiError):
    pass


class ServerFault(ApiError):
    pass


_BY_CODE: dict[str, type[ApiError]] = {
    "out_of_stock": OutOfStock,
    "quote_changed": QuoteChanged,
    "key_reused": KeyReused,
}
_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: VersionMismatch,
    428: VersionMismatch,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}

_BEFORE_THE_KEY = (RateLimited, Unavailable, Unauthenticated, Forbidden)
"""Given before the key is looked up, so they say nothing of what was done under it. Any other refusal does: the key made nothing."""


def error_of(
    problem: dict[str, Any],
    *,
    status: int,
    request_id: str = "",
    retry_after_s: float | None = None,
    idempotency_key: str | None = None,
    attempts: int = 1,
    maybe_done: bool = False,
) -> ApiError:
    """The error that a problem document describes. A code that this client does not know goes by its status.

    maybe_done: an earlier attempt with the same key may have been done.
    """
    code = str(problem.get("code") or status)
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (ServerFault if status >= 500 else InvalidRequest)
    if retry_after_s is None and isinstance(problem.get("retry_after_ms"), int):
        retry_after_s = problem["retry_after_ms"] / 1_000
    faults = tuple(
        Fault(
            str(entry.get("pointer", "")),
            str(entry.get("detail", "")),
            {name: value for name, value in entry.items() if name not in ("pointer", "detail")},
        )
        for entry in problem.get("errors") or ()
    )
    return kind(
        status=status,
        code=code,
        title=str(problem.get("title", "")),
        detail=str(problem.get("detail", "")),
        faults=faults,
        request_id=str(problem.get("request_id") or request_id),
        retry_after_s=retry_after_s,
        idempotency_key=idempotency_key,
        attempts=attempts,
        maybe_done=maybe_done and issubclass(kind, _BEFORE_THE_KEY),
    )
