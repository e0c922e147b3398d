"""Words and tables on a terminal: sizes, times, durations, columns. Pure, save for print_json."""

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SPANS = (  # (below this many seconds, seconds per unit, unit)
    (60, 1, "second"),
    (3600, 60, "minute"),
    (48 * 3600, 3600, "hour"),
    (14 * 86400, 86400, "day"),
    (60 * 86400, 7 * 86400, "week"),
    (730 * 86400, 30 * 86400, "month"),
    (float("inf"), 365 * 86400, "year"),
)
_FOREVER_S = 20 * 365 * 86400


def print_json(value: Any) -> None:
    """One indented JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def harmless(text: str) -> str:
    """Without control characters save newline and tab: a model's words must not drive the terminal."""
    return _CONTROL.sub("", text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, four blanks apart, each line ended."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "".join(
        "    ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def size(count_bytes: int) -> str:
    """Decimal units: 4.7 GB, 274 MB, 12 B."""
    for unit_bytes, unit in _SIZES:
        if count_bytes >= unit_bytes:
            value = count_bytes / unit_bytes
            return f"{int(value)} {unit}" if value >= 10 or value.is_integer() else f"{value:.1f} {unit}"
    return f"{count_bytes} B"


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit: 3 weeks, 1 hour."""
    if seconds < 1:
        return "less than a second"
    for limit_s, unit_s, unit in _SPANS:
        if seconds < limit_s:
            count = int(seconds // unit_s)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    raise AssertionError("the last span has no limit")


def ago(timestamp: str, now: datetime) -> str:
    """How long since an RFC 3339 time, "-" if it is none."""
    moment = parse_time(timestamp)
    if moment is None:
        return "-"
    seconds = (now - moment).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"{span(-seconds)} from now"


def until(timestamp: str, now: datetime) -> str:
    """When a loaded model leaves, as `ps` says it."""
    moment = parse_time(timestamp)
    if moment is None:
        return "-"
    seconds = (moment - now).total_seconds()
    if seconds > _FOREVER_S:
        return "Forever"
    return f"{span(seconds)} from now" if seconds > 0 else "Stopping..."


def parse_time(timestamp: str) -> datetime | None:
    """An RFC 3339 time with any number of fraction digits; None if it is none, or has no zone."""
    try:
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", timestamp))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def duration(nanoseconds: int) -> str:
    """As people read it: 1m2.5s, 1.234567s, 12.5ms, 0s."""
    seconds = nanoseconds / 1e9
    if seconds == 0:
        return "0s"
    if seconds < 1:
        return f"{_trimmed(seconds * 1e3)}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{_trimmed(rest)}s"


def _trimmed(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def statistics(final: dict[str, Any]) -> str:
    """The lines of --verbose, of an answer's last chunk."""
    lines = [("total duration", _time(final, "total_duration")), ("load duration", _time(final, "load_duration"))]
    for title, count_key, time_key in (
        ("prompt eval", "prompt_eval_count", "prompt_eval_duration"),
        ("eval", "eval_count", "eval_duration"),
    ):
        count, spent_ns = int(final.get(count_key, 0)), int(final.get(time_key, 0))
        lines.append((f"{title} count", f"{count} token(s)" if count else ""))
        lines.append((f"{title} duration", _time(final, time_key)))
        lines.append((f"{title} rate", f"{count / spent_ns * 1e9:.2f} tokens/s" if spent_ns else ""))
    return "".join(f"{title + ':':<22}{value}\n" for title, value in lines if value)


def _time(final: dict[str, Any], key: str) -> str:
    spent_ns = int(final.get(key, 0))
    return duration(spent_ns) if spent_ns else ""
