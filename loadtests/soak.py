"""A week of traffic, compressed in time: `python -m loadtests.soak`. What must not grow with time does not.

A real `quartermaster up` (2 shards) whose clock runs about a thousand times as fast, so that a week passes in ten minutes and every window
turns over many times: closed orders leave after an hour, idempotency keys after a day, capacity days pass, the journal is trimmed behind
snapshots and archive (a twentieth of the usual entries is kept to look back). The storefront is that of the chaos day (every order is
played to its end); nobody is killed.

Compressed is the time, not the rate: `--rate` counts real seconds, so the number of orders is that of the real minutes. What a full rate
would hold at once follows from it: (orders a second) x (window), at the bytes an order or a key that `make bench` measures.

Afterwards everything must come to rest as on the chaos day, and the high water of memory be no higher in the second half of the week
(shards, the journal's server, all together; shown, not judged, in a run of less than eight minutes). Archive and index are kept for good and grow
with the orders: they are shown, not judged. Exit code 0 only if all holds.
"""

from __future__ import annotations

from loadtests.chaos_day import Plan, arguments_of, run

SAMPLES = 150
FLAT_MINUTES = 8.0
"""A shorter soak says nothing about memory: it is hardly past the start of its processes."""
JOURNAL_RETAINED_ENTRIES = 1_000
"""A twentieth of the default: with the orders of ten minutes, that window turns over several times too."""


def main() -> None:
    parser = arguments_of("soak", __doc__, minutes=10.5, hours=168.0, rate=100.0)
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or arguments.rate <= 0:
        parser.error("--minutes and --rate must be above 0")
    plan = Plan(
        name="soak",
        title=f"{arguments.hours / 24:g} days in {arguments.minutes:g} minutes, {arguments.rate:g} orders a real second",
        minutes=arguments.minutes,
        hours=arguments.hours,
        rate_per_s=arguments.rate,
        seed=arguments.seed,
        journal_retained_entries=JOURNAL_RETAINED_ENTRIES,
        flat=arguments.minutes >= FLAT_MINUTES,
        sample_s=max(2.0, arguments.minutes * 60 / SAMPLES),
    )
    run(plan, out=arguments.out, keep=arguments.keep)


if __name__ == "__main__":
    main()
