"""Every error is documented, has a code of its own and a status; the drawing in the module is the tree."""

import re

import errors_docs
from ollamamax.core import errors


def test_the_page_is_what_the_code_says() -> None:
    assert errors_docs.TARGET.read_text(encoding="utf-8") == errors_docs.render(), "run `make docs`"


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in errors_docs.tree()]
    assert len(codes) == len(set(codes))


def test_the_drawing_shows_each_class_at_its_depth() -> None:
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│├└─ ]*)(\w+)", line)
        if match and match[2] in vars(errors):
            drawn[match[2]] = len(match[1]) // 4
    assert drawn == {kind.__name__: errors_docs.depth(kind) for kind in errors_docs.tree()}
