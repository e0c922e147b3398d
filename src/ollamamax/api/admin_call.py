"""What the admin API's handlers share: who asks, and the cluster that they ask about."""

from starlette.requests import Request

from ollamamax.api.call import Call
from ollamamax.api.ports import Cluster, Placements, Services, SharedSettings, StateHa
from ollamamax.core.errors import Conflict
from ollamamax.core.types import RequestContext

_ALONE = "this node stays alone (peer.host = off); start it with --peer-listen HOST:PORT to have a cluster"


def call_of(request: Request) -> Call:
    """The call behind a request."""
    call: Call = request.scope["call"]
    return call


def context_of(request: Request) -> RequestContext:
    """Who asks."""
    return call_of(request).context


def cluster_of(services: Services) -> Cluster:
    """Raises: Conflict where the node stays alone."""
    if services.cluster is None:
        raise Conflict(_ALONE)
    return services.cluster


def shared_of(services: Services) -> SharedSettings:
    """Raises: Conflict where the node stays alone."""
    if services.shared is None:
        raise Conflict(_ALONE)
    return services.shared


def ha_of(services: Services) -> StateHa:
    """Raises: Conflict where the node stays alone."""
    if services.ha is None:
        raise Conflict(_ALONE)
    return services.ha


def placements_of(services: Services) -> Placements:
    """Raises: Conflict where the node stays alone."""
    if services.placements is None:
        raise Conflict(_ALONE)
    return services.placements
