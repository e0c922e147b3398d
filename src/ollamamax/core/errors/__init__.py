"""One error tree. Each class states its code, whether a retry helps and whether it is deterministic.

::

    OllamaMaxError
    ├── BadRequest             the request can't be understood or honoured as it stands
    │   ├── InvalidName        a model name outside the grammar
    │   ├── InvalidOption      an option or a format of the wrong type or value
    │   ├── Unsupported        the model lacks a capability that the request needs
    │   ├── InputTooLong       the input exceeds the context and may not be cut
    │   ├── BodyTooLarge       the request's body exceeds the limit
    │   └── BodyTimeout        the request's body did not arrive in time
    ├── NotFound
    │   ├── ModelNotFound
    │   ├── BlobNotFound
    │   ├── EngineNotFound
    │   ├── NodeNotFound
    │   └── LeaseNotFound      a lease that has ended
    ├── Denied
    │   ├── Unauthenticated
    │   ├── Forbidden
    │   ├── CloudDisabled      something that only ollama.com has
    │   ├── TokenRefused       a join token that is expired, used up, forged or another cluster's
    │   └── CertificateRefused unknown authority, expired, revoked, or somebody else's
    ├── Conflict               what is asked for clashes with what stands
    │   └── NodeConflict       a node's name or identity is taken
    ├── StoreError             the model store or a state file refused
    │   ├── DiskFull
    │   ├── StoreReadOnly
    │   ├── StoreInUse         another process holds it
    │   ├── DigestMismatch
    │   └── CorruptManifest
    ├── GgufError              a file that is no usable GGUF
    │   ├── GgufForeign        not a GGUF at all, or of an unknown version
    │   ├── GgufTruncated      shorter than its own header says
    │   └── GgufUnsupported    an architecture or type that the engine can't run
    ├── TemplateError          a prompt template that does not parse or run
    ├── Busy
    │   ├── QueueFull          more waiting requests than the queue holds
    │   ├── NoMemory           the model does not fit beside what is in use
    │   ├── NoCandidate        every engine that has the model is out
    │   ├── NodeBusy           another node takes no more requests now
    │   └── ShuttingDown
    ├── EngineError            an engine failed the request
    │   ├── EngineUnavailable  can't be reached, or closed before it answered
    │   ├── EngineCrashed      its process ended while it answered
    │   ├── EngineTimeout      no first token, or no next one, within the deadline
    │   ├── EngineProtocol     its answer can't be understood
    │   ├── EngineRefused      it answered with an error of its own
    │   ├── LoadFailed         the model could not be loaded
    │   └── LoadTimeout        the model was not loaded within the limit
    ├── PeerError              another node failed a call
    │   ├── PeerUnavailable    can't be reached, or closed before it answered
    │   │   └── PeerUnreachable    no connection: nothing was sent
    │   ├── PeerTimeout        no answer within the deadline
    │   ├── PeerProtocol       its answer can't be understood, or is too large
    │   └── PeerVersion        it speaks no version that this program speaks
    ├── StateError             the cluster's replicated state
    │   ├── StateUnavailable   can't be reached: nothing can be written now
    │   │   └── StateElsewhere     whoever was asked does not hold it: nothing was done
    │   ├── StateCompacted     that far back is no longer kept
    │   ├── StateCorrupt       its file can't be read
    │   └── StateTooNew        written by a newer program
    ├── RegistryError          a registry of models failed a pull or a push
    │   ├── RegistryNotFound   no such model, blob or upload
    │   ├── RegistryDenied     it asks for credentials that this node does not have
    │   ├── RegistryUnavailable can't be reached, broke off, or said nothing for too long
    │   └── RegistryProtocol   its answer can't be understood
    │       └── RangeIgnored   it sends blobs whole or not at all
    ├── ClientGone             the client closed its connection
    └── SettingsError          a setting is unknown, ill-typed or out of range

HTTP is known to the API's table alone. Where a client of Ollama would look at the text, the raiser gives
Ollama's text; elsewhere the text names the thing, the cause and the remedy.
"""

from ollamamax.core.errors.cluster import (
    CertificateRefused,
    LeaseNotFound,
    NodeBusy,
    NodeConflict,
    NodeNotFound,
    PeerError,
    PeerProtocol,
    PeerTimeout,
    PeerUnavailable,
    PeerUnreachable,
    PeerVersion,
    StateCompacted,
    StateCorrupt,
    StateElsewhere,
    StateError,
    StateTooNew,
    StateUnavailable,
    TokenRefused,
)
from ollamamax.core.errors.node import (
    BadRequest,
    BlobNotFound,
    BodyTimeout,
    BodyTooLarge,
    Busy,
    ClientGone,
    CloudDisabled,
    Conflict,
    CorruptManifest,
    Denied,
    DigestMismatch,
    DiskFull,
    EngineCrashed,
    EngineError,
    EngineNotFound,
    EngineProtocol,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    Forbidden,
    GgufError,
    GgufForeign,
    GgufTruncated,
    GgufUnsupported,
    InputTooLong,
    InvalidName,
    InvalidOption,
    LoadFailed,
    LoadTimeout,
    ModelNotFound,
    NoCandidate,
    NoMemory,
    NotFound,
    OllamaMaxError,
    QueueFull,
    Retry,
    SettingsError,
    ShuttingDown,
    StoreError,
    StoreInUse,
    StoreReadOnly,
    TemplateError,
    Unauthenticated,
    Unsupported,
)
from ollamamax.core.errors.registry import (
    RangeIgnored,
    RegistryDenied,
    RegistryError,
    RegistryNotFound,
    RegistryProtocol,
    RegistryUnavailable,
)

__all__ = [
    "BadRequest",
    "BlobNotFound",
    "BodyTimeout",
    "BodyTooLarge",
    "Busy",
    "CertificateRefused",
    "ClientGone",
    "CloudDisabled",
    "Conflict",
    "CorruptManifest",
    "Denied",
    "DigestMismatch",
    "DiskFull",
    "EngineCrashed",
    "EngineError",
    "EngineNotFound",
    "EngineProtocol",
    "EngineRefused",
    "EngineTimeout",
    "EngineUnavailable",
    "Forbidden",
    "GgufError",
    "GgufForeign",
    "GgufTruncated",
    "GgufUnsupported",
    "InputTooLong",
    "InvalidName",
    "InvalidOption",
    "LeaseNotFound",
    "LoadFailed",
    "LoadTimeout",
    "ModelNotFound",
    "NoCandidate",
    "NoMemory",
    "NodeBusy",
    "NodeConflict",
    "NodeNotFound",
    "NotFound",
    "OllamaMaxError",
    "PeerError",
    "PeerProtocol",
    "PeerTimeout",
    "PeerUnavailable",
    "PeerUnreachable",
    "PeerVersion",
    "QueueFull",
    "RangeIgnored",
    "RegistryDenied",
    "RegistryError",
    "RegistryNotFound",
    "RegistryProtocol",
    "RegistryUnavailable",
    "Retry",
    "SettingsError",
    "ShuttingDown",
    "StateCompacted",
    "StateCorrupt",
    "StateElsewhere",
    "StateError",
    "StateTooNew",
    "StateUnavailable",
    "StoreError",
    "StoreInUse",
    "StoreReadOnly",
    "TemplateError",
    "TokenRefused",
    "Unauthenticated",
    "Unsupported",
]
