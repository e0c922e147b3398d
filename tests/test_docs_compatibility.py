"""docs/compatibility.md has a row for each route, and the tests that it names exist."""

import re
from pathlib import Path

from ollamamax.api import app

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" |")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| route |", "| field or", "| behaviour |"))
]


def test_every_route_has_a_row() -> None:
    named = {route for row in ROWS for route in re.findall(r"`((?:GET|HEAD|POST|DELETE) /[^`]*)`", row[0])}
    resources = [*app._resources(), app._BLOB, app._OPENAI_MODEL, app._ACCOUNT_KEY]
    served = {f"{method} {resource.route}" for resource in resources for method in resource.methods}
    assert not served - named, "each route needs a row in docs/compatibility.md"
    assert not named - served, "no such route"


def test_every_row_has_a_verdict_and_a_test() -> None:
    for row in ROWS:
        assert len(row) == 4, row
        assert row[1] in ("same", "better", "refused"), row
        assert row[2] or row[1] == "same", f"how? {row}"
        path, _, name = row[3].strip("`").partition("::")
        file = ROOT / "tests" / path
        assert file.is_file(), f"no such file: {row[3]}"
        assert re.search(rf"^(async )?def {name}\(", file.read_text(encoding="utf-8"), re.M), f"no such test: {row[3]}"
