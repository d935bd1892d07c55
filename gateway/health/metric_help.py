"""What each fact of a shard's status means: the help texts of /metrics and of docs/reference/metrics.md.

A fact is named as a shard states it (engine.protocol.reads.status, the shard's runner); `count_<what>` counts since the shard
started, and begins again at 0 with every start.
"""

from __future__ import annotations

HELP = {
    # the journal
    "epoch": "Epoch of the shard; it goes up with each start and each takeover.",
    "seq": "Newest entry decided.",
    "durable_seq": "Newest entry that the journal has confirmed.",
    "appends": "Entries appended.",
    "append_bytes": "Bytes of events appended.",
    "decision_bytes": "Bytes of decision records appended.",
    "append_p50_ms": "Median of recent journal appends, until they were durable.",
    "append_p99_ms": "99th percentile of recent journal appends, until they were durable.",
    "batch_size_mean": "Mean decisions in one journal entry since the start.",
    "lease_left_ms": "How long the shard may still answer reads without hearing from the journal.",
    "redis_used_bytes": "Memory used by the journal's server.",
    "redis_limit_bytes": "Memory limit of the journal's server, 0 = none.",
    "redis_headroom_ratio": "Share of the journal server's memory that is free; 1 where it has no limit.",
    "journal_full": "1 while the journal's server is too full to take new orders; finishing goes on.",
    "clock_skew_ms": "Time of the journal's server less that of the shard.",
    "clock_stepped": "1 while the machine's clock was set and the journal's server does not agree with it: it is not followed.",
    # snapshots and trimming
    "dirty_parts": "Parts changed since their last snapshot.",
    "snapshot_parts": "Parts that have a snapshot.",
    "snapshots_written": "Snapshots of parts written.",
    "snapshot_bytes_written": "Bytes of snapshots written.",
    "floor_seq": "Entry before which a recovery needs none.",
    "trimmed_seq": "Entry up to which the journal has been trimmed.",
    # archive and index
    "archived_seq": "Newest entry in an archive segment.",
    "archive_lag_entries": "Journal entries that no archive segment holds yet.",
    "archive_silence_ms": "Time since the archiver was last heard of.",
    "indexed_seq": "Newest entry in the index.",
    "index_lag_entries": "Journal entries that the index does not show yet.",
    # state
    "config_version": "Version of the configuration in use.",
    "positions": "Positions owned.",
    "short_positions": "Positions that promised more than they have.",
    "open_holds": "Reservations held.",
    "open_orders": "Orders of which something has still to happen.",
    "orders": "Orders in memory, the ended ones that have not left yet included.",
    "foreign_legs": "Legs at own nodes of orders whose home is another shard.",
    "dedupe_entries": "Idempotency keys remembered.",
    "dedupe_max": "Idempotency keys that may be remembered.",
    "dedupe_window_ms": "For how long an idempotency key is remembered at least, as full as the memory of them is.",
    "waiting_orders": "Orders of which some units wait for stock, capacity or a node.",
    "waiting_units": "Units that wait for stock, capacity or a node.",
    "kept_positions": "Positions that keep units for those who wait.",
    # work in progress
    "queue_finishing": "Commands queued that finish or free something: commit, cancel, ship.",
    "queue_new": "Commands queued that begin something.",
    "queue_quotes": "Quotes queued; they wait for everything else.",
    "queue_waiting_for_view": "Orders that wait until a view contains the token they came with.",
    "orders_in_flight": "Orders being decided: at the solver, or waiting for another shard.",
    "claims_in_flight": "Contended components at the solver.",
    "transactions_pending": "Orders across shards that are being placed.",
    "legs_driving": "Decisions on legs that another shard has not acknowledged yet.",
    "view_lag_ms": "Age of the oldest view of another shard.",
    "connections": "Connections to the shard's sockets.",
    "followers": "Shards and gateways that follow the configuration.",
    "cpu_s": "CPU time of the shard's process.",
    # decisions since the start
    "count_placed": "Orders placed: held or allocated.",
    "count_legs": "Legs of the orders placed.",
    "count_refused": "Orders refused because they fell short.",
    "count_replayed": "Commands answered again from memory because their key was known.",
    "count_plans_unfit": "Plans that no longer fitted the stock when they were to be applied.",
    "count_waited_for_claim": "Orders that waited for units which the solver had claimed.",
    "count_holds_capped": "Holds refused by a cap on held units.",
    "count_committed": "Holds committed.",
    "count_committed_elsewhere": "Holds committed to another destination than they were held for.",
    "count_released": "Holds released.",
    "count_expired": "Holds that expired.",
    "count_holds_cleared": "Requests that cleared holds in bulk.",
    "count_cancelled": "Cancellations, of orders or parts of them.",
    "count_duplicates_cancelled": "Orders cancelled, wholly or in part, because an earlier one in another slot has the same id.",
    "count_closed": "Ended orders that left memory.",
    "count_edited": "Orders edited.",
    "count_edits_refused": "Edits refused; their orders stayed as they were.",
    "count_replanned": "Orders planned again because something about them changed.",
    "count_legs_resourced": "Legs given to another node because their position fell short or their node went off.",
    "count_legs_not_accepted": "Legs taken from a node that did not accept them in time.",
    "count_legs_overdue": "Released legs that no other node could take when theirs did not accept them in time.",
    "count_legs_released_by_wave": "Legs released by their node's waves.",
    "count_waves": "Release waves of a node that went through its legs.",
    "count_orders_improved": "Split orders that were served for less before they were released.",
    "count_legs_freed": "Legs freed because their home no longer knew them.",
    "count_legs_disowned": "Answers of a home that knows nothing of a leg about which it decided once: look at it.",
    "count_supply_renewed": "Days begun at nodes whose suppliers promise a daily cap.",
    "count_quotes": "Quotes given.",
    "count_quotes_kept": "Orders that kept the promise of their quote.",
    "count_quotes_changed": "Orders refused because the promise of their quote could not be kept.",
    "count_quotes_expired": "Orders refused because their quote was no longer valid.",
    "count_quotes_refused": "Quotes refused because nothing could be offered.",
    # demand
    "count_demand_tried": "Times a waiting order was planned again.",
    "count_demand_cancelled": "Waiting lines cancelled on request.",
    "count_demand_expired": "Waiting lines cancelled because their time was up.",
    "count_demand_units_refused": "Units of lines that fell short in refused orders.",
    "count_demand_units_quoted": "Units that were asked for in quotes.",
    "count_demand_units_parked": "Units that were taken although they have to wait.",
    "count_demand_units_partial": "Units left over of orders that were served as far as possible.",
    "count_demand_units_served": "Units that waited and found a node.",
    # the solver
    "count_components_solved": "Contended components handed to the solver.",
    "count_components_greedy": "Contended components decided without the solver because it had enough to do.",
    "count_components_overtaken": "Answers of the solver that no longer fitted: its greedy plan was used.",
    # across shards
    "count_transactions_committed": "Orders across shards that were placed.",
    "count_transactions_aborted": "Orders across shards that another shard refused and that were planned again or refused.",
    "count_drives_refused": "Decisions on a leg that its shard refused.",
    "count_drives_without_leg": "Decisions on a leg that its shard no longer had.",
    # moves
    "count_parts_left": "Nodes and slots that moved away.",
    "count_parts_opened": "Nodes and slots that moved here.",
    "count_moves_given_up": "Moves begun and given up; the part stayed.",
    "count_moves_stopped_ms": "Time for which parts that moved away were stopped.",
    # the control shard
    "count_documents_put": "Documents of the configuration written.",
}
"""By fact. /metrics names the families after them: gateway.health.shard_metrics.empty_family."""

KIND_HELP = "Documents of this kind in the configuration."
"""Of the facts `documents_<kind>` of the control shard."""
