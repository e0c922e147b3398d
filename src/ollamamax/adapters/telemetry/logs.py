"""Logs: structlog for our own lines and for those of the libraries, console or JSON, on standard error."""

import logging
import sys
from typing import Any

import structlog

from ollamamax.core.types import Principal


def configure(level: str, json: bool) -> None:
    """Route structlog and the standard library's logging to stderr in one form.

    level: "debug", "info", "warning" or "error". Below it, calls cost next to nothing (filtered at bind time).
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # never local variables: they hold keys and prompts
            )
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for chatty in ("asyncio", "httpx", "opentelemetry"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


class LogAudit:
    """The audit sink of a node without a durable one: a log line per decision, at info for changes and refusals."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("audit")

    def record(self, principal: Principal, action: str, subject: str, allowed: bool, rule: str) -> None:
        """One line."""
        self._log.info(
            "allowed" if allowed else "refused", principal=principal.name, action=action, subject=subject, rule=rule
        )
