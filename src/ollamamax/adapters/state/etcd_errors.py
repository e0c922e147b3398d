"""What went wrong in a call to etcd, in this project's words."""

from typing import Any, Final

from ollamamax.core.errors import (
    CertificateRefused,
    Conflict,
    DiskFull,
    LeaseNotFound,
    NotFound,
    OllamaMaxError,
    StateCompacted,
    StateElsewhere,
    StateError,
    StateUnavailable,
)
from ollamamax.core.types.etcd import ETCD_TXN_PARTS

_NEVER_SENT: Final = ("failed to connect to all addresses", "DNS resolution failed", "no leader")
_LOST: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "UNKNOWN", "INTERNAL")
_LIMITS: Final = f"start its members with --max-txn-ops {ETCD_TXN_PARTS} --max-request-bytes 1572864"
_HANDSHAKE: Final = ("andshake failed", "CERTIFICATE_VERIFY", "verification check failed")


def explained(error: Any, endpoint: str) -> OllamaMaxError:
    """error: grpc's AioRpcError.  endpoint: whom it came from. StateElsewhere: the call was surely not carried out."""
    code, told = error.code().name, error.details() or ""
    for mark, kind, text in _ANSWERS:
        if mark in told:
            return kind(text.format(who=f"etcd at {endpoint}"))
    if code in _LOST:
        return _lost(endpoint, code, told)
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
        return StateError(
            f"etcd at {endpoint} does not let this node in: {told}. Give it a certificate of a user that may."
        )
    return StateError(f"etcd at {endpoint} refused: {told or code}")


def _lost(endpoint: str, code: str, told: str) -> OllamaMaxError:
    if any(mark in told for mark in _HANDSHAKE):
        return CertificateRefused(
            f"the certificate of etcd at {endpoint} is not of the authority that was given, expired, or for another "
            f"host ({_short(told)}). Check the CA file and the endpoint's name."
        )
    if "TSI_DATA_CORRUPTED" in told:
        return CertificateRefused(
            f"etcd at {endpoint} does not accept this node's certificate: etcd's CA has to have signed it, and it must "
            "not have expired"
        )
    if code == "DEADLINE_EXCEEDED":
        return unavailable(endpoint, "it did not answer in time")
    if "failed to connect" in told and "Socket closed" in told:
        return unavailable(endpoint, "it closes each new connection; it may want TLS, or none")
    nothing_done = any(mark in told for mark in _NEVER_SENT)
    return unavailable(endpoint, _short(told) or code.lower(), StateElsewhere if nothing_done else StateUnavailable)


def unavailable(endpoint: str, reason: str, kind: type[StateUnavailable] = StateUnavailable) -> StateUnavailable:
    """The error for an endpoint that is not there now."""
    return kind(
        f"the cluster's state is in etcd at {endpoint}, which can't be reached ({reason}). What is running goes on; "
        "changes have to wait until a majority of its members is up."
    )


def _short(told: str) -> str:
    """The last reason of a chain of them."""
    for mark in ("last error: ", "Failed to connect to remote host: "):
        told = told.rpartition(mark)[2].strip()
    return told[:300]


_ANSWERS: Final[tuple[tuple[str, type[OllamaMaxError], str], ...]] = (
    ("requested lease not found", LeaseNotFound, "the lease has ended"),
    ("required revision has been compacted", StateCompacted, "changes that far back are not kept any more"),
    ("required revision is a future revision", StateCompacted, "that revision lies ahead of the cluster's state"),
    (
        "database space exceeded",
        DiskFull,
        "{who} takes no more: its file has reached its quota. What is no longer needed has to go (compact, defragment, "
        "disarm the alarm), or the quota be raised.",
    ),
    ("too many operations in txn", StateError, f"{{who}} refuses transactions of this size: {_LIMITS}"),
    ("request is too large", StateError, f"{{who}} refuses requests of this size: {_LIMITS}"),
    ("received message larger than max", StateError, f"{{who}} refuses requests of this size: {_LIMITS}"),
    ("too many requests", StateUnavailable, "{who} has too much to do now; try again later"),
    (
        "corrupt cluster",
        StateError,
        "{who} found that its members disagree (alarm CORRUPT) and takes no writes: replace the member that is wrong, "
        "or restore a backup",
    ),
    ("member not found", NotFound, "{who} knows no such member"),
    ("Peer URLs already exists", Conflict, "{who} has a member at that address already"),
    ("member ID already exist", Conflict, "{who} has a member at that address already"),
    ("in sync with leader", StateUnavailable, "{who}: the new member has not caught up with the leader yet"),
    ("can only promote a learner", Conflict, "{who} has given that member its vote already"),
    ("too many learner members", StateUnavailable, "{who} takes in one new member at a time; try again later"),
    (
        "unhealthy cluster",
        StateUnavailable,
        "{who} changes no members while some of them can't be reached; try again when they are back",
    ),
    ("not enough started members", StateUnavailable, "{who} changes no members: too few of them are running"),
    ("not supported for learner", StateUnavailable, "{who} has no vote yet, and answers only then"),
)
