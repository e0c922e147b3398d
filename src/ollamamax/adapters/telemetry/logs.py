"""Logs: structlog for our own lines and for those of the libraries, console or JSON, on standard error."""

import logging
import sys
from typing import Any

import structlog

from ollamamax.core.types import Principal

_Logger: Any = type("Logger", (structlog.make_filtering_bound_logger(logging.DEBUG),), {})
"""The class of all our loggers: they are made once, and set_level() changes what they all do."""


def configure(level: str, json: bool) -> None:
    """Route structlog and the standard library's logging to stderr in one form. level: as of set_level()."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=_Logger,
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
    set_level(level)


def set_level(level: str) -> None:
    """Write lines of that level and above from now on: "debug", "info", "warning" or "error".

    Below it, calls cost next to nothing: structlog's logger of a level does nothing there.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    for name, method in vars(structlog.make_filtering_bound_logger(number)).items():
        if not name.startswith("__"):
            setattr(_Logger, name, method)
    logging.getLogger().setLevel(number)
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
