"""What goes wrong between nodes."""

from ollamamax.core.errors.node import Busy, Conflict, Denied, NotFound, OllamaMaxError, Retry


class NodeNotFound(NotFound):
    """No node of that name or id is in the cluster."""

    code = "node_not_found"


class LeaseNotFound(NotFound):
    """A lease that has ended, or never was."""

    code = "lease_not_found"


class TokenRefused(Denied):
    """A join token that is expired, used up, forged or another cluster's."""

    code = "token_refused"


class CertificateRefused(Denied):
    """A certificate of an unknown authority, expired, revoked, or somebody else's."""

    code = "certificate_refused"


class NodeConflict(Conflict):
    """A node's name or identity is taken."""

    code = "node_conflict"


class NodeBusy(Busy):
    """Another node takes no more requests now."""

    code = "node_busy"
    retry = Retry.OTHER_ENGINE


class PeerError(OllamaMaxError):
    """Another node failed a call."""

    code = "peer"
    retry = Retry.OTHER_ENGINE


class PeerUnavailable(PeerError):
    """It can't be reached, or closed before it answered."""

    code = "peer_unavailable"


class PeerUnreachable(PeerUnavailable):
    """There is no connection to it: nothing was sent."""

    code = "peer_unreachable"


class PeerTimeout(PeerError):
    """It did not answer within the deadline."""

    code = "peer_timeout"


class PeerProtocol(PeerError):
    """Its answer can't be understood, or is larger than allowed."""

    code = "peer_protocol"


class PeerVersion(PeerError):
    """It speaks no version of the talk between nodes that this program speaks."""

    code = "peer_version"


class StateError(OllamaMaxError):
    """The cluster's replicated state refused."""

    code = "state"


class StateUnavailable(StateError):
    """It can't be reached: nothing can be written now."""

    code = "state_unavailable"
    retry = Retry.LATER


class StateElsewhere(StateUnavailable):
    """The node that was asked does not hold it (any more): nothing was done."""

    code = "state_elsewhere"


class StateCompacted(StateError):
    """What a watch asked for lies further back than what is kept."""

    code = "state_compacted"


class StateCorrupt(StateError):
    """Its file can't be read."""

    code = "state_corrupt"


class StateTooNew(StateError):
    """It was written by a newer program."""

    code = "state_too_new"
