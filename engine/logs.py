"""Logging of every process: JSON lines on standard error."""

from __future__ import annotations

import logging
import os
import sys

import structlog
from structlog.typing import EventDict

from engine.settings import Settings


def warn_on_stderr() -> None:
    """For commands: what they print is on standard output, and nothing else."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def set_up_logging(settings: Settings) -> None:
    """Configure structlog once for this process."""
    process = os.getpid()

    def name_process(_: object, __: str, event: EventDict) -> EventDict:
        """`up` passes on what all processes write, as it is."""
        event["process"] = process
        return event

    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            name_process,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
