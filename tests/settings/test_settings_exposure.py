"""The public listener is opened to other machines only by a decision."""

import pytest

from ollamamax.core.errors import SettingsError
from ollamamax.settings import check_exposure, load


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "localhost"])
def test_loopback_needs_no_decision(host: str) -> None:
    check_exposure(load({"listen.host": host}, {}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "box.local", "127.evil.example"])
def test_anything_else_does(host: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_exposure(load({"listen.host": host}, {}))
    for part in (f"listen.host = {host!r} (flag --host)", "does not ask who they are", "--insecure-public", "11435"):
        assert part in str(caught.value)
    check_exposure(load({"listen.host": host, "listen.insecure_public": True}, {}))


def test_users_of_ollamas_variable_are_told_where_the_address_came_from() -> None:
    environ = {"OLLAMA_HOST": "0.0.0.0"}
    with pytest.raises(SettingsError, match=r"listen.host = '0.0.0.0' \(environment OLLAMA_HOST\)"):
        check_exposure(load({}, environ))
    check_exposure(load({}, environ | {"OLLAMAMAX_LISTEN__INSECURE_PUBLIC": "true"}))


def test_a_node_that_stays_alone_is_not_told_of_a_peer_listener() -> None:
    with pytest.raises(SettingsError) as caught:
        check_exposure(load({"listen.host": "::", "peer.host": "off"}, {}))
    assert "11435" not in str(caught.value)
