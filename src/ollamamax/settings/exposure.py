"""Refuses to open the public listener to other machines unless somebody has decided it."""

from ollamamax.core.errors import SettingsError
from ollamamax.settings.load import Loaded


def check_exposure(loaded: Loaded) -> None:
    """Call it before the public listener is opened. A host name other than localhost counts as public.

    Raises: SettingsError that says why, and what can be done.
    """
    listen, peer = loaded.settings.listen, loaded.settings.peer
    if listen.is_loopback or listen.insecure_public:
        return
    apart = f" (port {peer.port}, with certificates)" if peer.is_on else ""
    where = f"listen.host = {listen.host!r} ({loaded.sources['listen.host'].origin})"
    raise SettingsError(
        f"{where}: other machines could reach this node, and it does not ask who they are. Anyone there could run, "
        "create and delete models, attach engines and manage the cluster.\n"
        "  If only you use it: stay on 127.0.0.1. The nodes of a cluster do not need the public listener; they talk "
        f"over the peer listener{apart}.\n"
        "  If you trust everyone on that network: --insecure-public, or OLLAMAMAX_LISTEN__INSECURE_PUBLIC=true, or "
        "insecure_public = true below [listen] in config.toml.\n"
        "  Otherwise: a proxy that authenticates, in front of 127.0.0.1."
    )
