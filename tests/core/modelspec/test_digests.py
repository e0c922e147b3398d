import pytest

from ollamamax.core.errors import BadRequest
from ollamamax.core.modelspec import digests

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha256-{HEX}", f"sha256:{HEX.upper()}"])
def test_three_spellings_are_one(text: str) -> None:
    assert digests.normalise(text) == f"sha256:{HEX}"
    assert digests.file_name(text) == f"sha256-{HEX}"


@pytest.mark.parametrize(
    "text", ["", HEX, f"sha256_{HEX}", f"sha256:{HEX}0", f"sha256:{HEX[1:]}", f"sha256:{HEX}\n", f"sha256:../{HEX[3:]}"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^invalid digest format$"):
        digests.normalise(text)
