"""/v1/quotes: delivery options of an order, and an id by which an order keeps what one of them promised."""

from __future__ import annotations

from functools import partial
from math import inf

from msgspec import UNSET
from msgspec.structs import replace

from engine.domain.commands import QuoteOrder
from engine.domain.config import QUOTE_SECRET
from engine.domain.orders import OrderRequest, collected_at
from engine.domain.replies import LegView, OptionView, Problem, QuoteReply, Reply
from gateway.call import Answer, Ask, Call, Route
from gateway.errors import problem, refuse
from gateway.orders.routes import (
    LINES_LIMIT_MAX,
    VALUES_PER_LINE_MAX,
    channel_problem,
    home_slot,
    lines_problem,
    unexpected,
)
from gateway.orders.schemas import CostParts, LegLine, order_request
from gateway.quotes import examples
from gateway.quotes.schemas import Quote, QuoteFacts, QuoteLeg, QuoteOption, QuoteRequest, QuoteUnfilled
from gateway.quotes.sealed import SCHEMA, UNSEALABLE, Sealed, SealedOption, seal, sealed_lines, sealed_order
from gateway.schemas import Decoder
from gateway.times import iso

_quote = Decoder(QuoteRequest)


def quote(call: Call) -> Ask | Problem:
    refusal = lines_problem(call)
    if refusal is not None:
        return refusal
    body = _quote.of(call)
    if type(body) is Problem:
        return body
    assert type(body) is QuoteRequest
    if body.quote_id is not None:
        return refuse("invalid_field", "/quote_id", "a quote is not made of a quote: leave it out")
    settings = call.gateway.settings
    request = order_request(body, max_lines=settings.max_lines, needs_destination=False)
    if isinstance(request, Problem):
        return request
    refusal = channel_problem(call, request.channel)
    if refusal is not None:
        return refusal
    slot = home_slot(call, request)
    if isinstance(slot, Problem):
        return slot
    pickup = body.pickup
    if pickup is not None and request.ship_to is None:
        return refuse("invalid_field", "/ship_to", "stores near what: `pickup` needs a destination")
    if QUOTE_SECRET not in call.gateway.cluster.catalog.secrets:
        return problem("unavailable", UNSEALABLE)
    ttl_s = min(body.ttl_s or settings.quote_ttl_s, settings.quote_ttl_s)
    command = QuoteOrder(request, settings.quote_options_max, call.after())
    if pickup is not None:
        command = replace(command, pickups_max=pickup.limit, radius_km=pickup.radius_km)
    return Ask(slot, command, partial(_quoted, request, ttl_s))


def _quoted(request: OrderRequest, ttl_s: int, call: Call, reply: Reply) -> Answer | Problem:
    if type(reply) is not QuoteReply:
        return unexpected(reply)
    secret = call.gateway.cluster.catalog.secrets[QUOTE_SECRET]
    options = sorted(reply.options, key=_rank)
    places = range(len(options))

    def score(n: int) -> tuple[int, int, int]:
        return options[n].unfilled_units, sum(options[n].money_minor), n

    best = min(places, key=score)
    asked = [n for n in places if not options[n].pickup_node_id]
    fastest = min(places, key=lambda n: (options[n].unfilled_units, _door_ms(options[n]), n))
    valid_until_ms = (reply.at_ms // 1_000 + ttl_s) * 1_000
    sealed = Sealed(
        SCHEMA,
        reply.at_ms,
        valid_until_ms,
        *sealed_order(secret, request),
        min(asked, key=score) if asked else 0,
        tuple([_sealed(secret, request, option) for option in options]),
    )
    shown = [_option(option, cheapest=n == 0, fastest=n == fastest, best=n == best) for n, option in enumerate(options)]
    facts = QuoteFacts(
        reply.shard,
        reply.epoch,
        reply.seq,
        reply.config,
        iso(reply.at_ms),
        reply.levels,
        reply.left_out,
    )
    quote_id = seal(secret, reply.slot, sealed)
    return Answer(Quote(quote_id, iso(valid_until_ms), request.currency, request.channel, shown, facts, reply.token))


def _sealed(secret: bytes, request: OrderRequest, option: OptionView) -> SealedOption:
    """The terms of an option, and of one to collect the lines that take it up."""
    node_id = option.pickup_node_id
    return SealedOption(
        node_id or option.service,
        option.service,
        option.ship_by_ms,
        option.deliver_by_ms,
        option.money_minor[0],
        option.unfilled_units,
        sealed_lines(secret, collected_at(request, node_id)) if node_id else b"",
    )


def _rank(option: OptionView) -> tuple[int, int, float, str]:
    """Those that serve more first, then the cheapest."""
    return option.unfilled_units, option.money_minor[0], _door_ms(option), option.service


def _door_ms(option: OptionView) -> float:
    """The promised instant; what has none comes last."""
    return option.deliver_by_ms or inf


def _option(view: OptionView, *, cheapest: bool, fastest: bool, best: bool) -> QuoteOption:
    cash, service, policy, opportunity = view.money_minor
    parts = [leg.cost_parts for leg in view.legs if len(leg.cost_parts) == 4]
    totals = [sum(part) for part in zip(*parts, strict=True)] if parts else [cash, 0, 0, 0]
    return QuoteOption(
        view.pickup_node_id or view.service,
        view.service,
        cheapest,
        fastest,
        best,
        iso(view.ship_by_ms),
        iso(view.deliver_by_ms),
        cash,
        CostParts(*totals),
        service,
        policy,
        opportunity,
        cash + service + policy + opportunity,
        not view.unfilled_units,
        [QuoteUnfilled(line.line_id, line.quantity, line.reason) for line in view.unfilled],
        [_leg(leg) for leg in view.legs],
        view.rung,
        view.pickup_node_id or UNSET,
        round(view.distance_m / 1_000, 1) if view.pickup_node_id else UNSET,
    )


def _leg(view: LegView) -> QuoteLeg:
    return QuoteLeg(
        view.node_id,
        [LegLine(line.line_id, line.sku, line.quantity) for line in view.lines],
        view.carrier or None,
        view.service or None,
        view.parcels,
        iso(view.ship_by_ms),
        iso(view.deliver_by_ms),
        view.cost_minor,
    )


ROUTES = [
    Route(
        "POST",
        "/v1/quotes",
        "allocate:read",
        quote,
        "Ask for delivery options",
        "quotes",
        "Plans the order at every service level that is priced in its currency, and holds nothing. `quote_id` in a later "
        "reservation or allocation of the same lines to the same destination keeps the promised date of one option "
        "(`quote_option`), or is answered 409 `quote_changed` with what was quoted and what is offered now. With `pickup` stores "
        "near by are options too; an order that takes one up has its lines collected there (`method`, `pickup_node_id`).",
        body=QuoteRequest,
        values_max=VALUES_PER_LINE_MAX * LINES_LIMIT_MAX,
        answer=Quote,
        takes_after=True,
        problems=(
            "out_of_stock",
            "no_capable_node",
            "unknown_sku",
            "unknown_node",
            "unknown_channel",
            "unknown_service",
            "unknown_destination",
            "currency_mismatch",
            "currency_not_priced",
            "too_many_lines",
            "invalid_token",
            "view_behind",
        ),
        body_examples=examples.QUOTES,
        answer_example=examples.QUOTE,
    ),
]
