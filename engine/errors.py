"""Every error that crosses a package border, ordered by whose doing it is.

    MijraError
    ├── Rejected              the caller's doing; the same call fails again            4xx
    │   ├── InvalidInput          validation_failed, not_json, too_large, …
    │   ├── Unauthenticated       unauthenticated, bad_signature
    │   ├── Forbidden             forbidden
    │   ├── NotFound              not_found (also for what belongs to another tenant)
    │   └── Conflicting           conflict, stale_conversation, window_closed, window_used_up, …
    ├── Unavailable           our state right now; waiting helps                       429 / 503
    │   ├── MailboxFull           overloaded; over_share (this tenant has its share of what is shared)
    │   ├── ActorStopped          stopping
    │   ├── AskTimeout            timeout
    │   ├── StoreUnavailable      store_unavailable
    │   └── RateLimited           rate_limited
    ├── CommitFailed          the writer's verdict on one write set; the runtime's to handle
    │   ├── CommitConflict        commit_conflict (a unique key says that it is there already)
    │   ├── CommitPoisoned        commit_poisoned (the database refuses these rows)
    │   ├── CommitAbandoned       commit_abandoned (an earlier set of the same activation failed)
    │   └── Fenced                fenced (another node owns the tenant now)
    ├── DeliveryFailed        the platform's doing; retry by class                     on the message
    ├── Parked                the message went to the dead letters after three crashes
    └── Defect                ours; nobody handles it, the supervisor restarts         500

Each instance carries `code` (stable, for machines), a sentence for people, `retryable`, and, where
the caller can act on them, `fields` ({field: [sentence]}) and `retry_after_seconds`. Sentences name
ids, never payloads or secrets. The gateway derives HTTP statuses and close codes from the family.
"""

from collections.abc import Mapping, Sequence


class MijraError(Exception):
    """Base of all. `code` is part of the public contract; changing one is a breaking change."""

    code: str = "error"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        fields: Mapping[str, Sequence[str]] | None = None,
        retry_after_seconds: float | None = None,
        data: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.fields: Mapping[str, Sequence[str]] = fields or {}
        self.retry_after_seconds = retry_after_seconds
        self.data = data


class Rejected(MijraError):
    """The caller must change the call."""

    code = "rejected"


class InvalidInput(Rejected):
    """The content of the call is not acceptable; `fields` says where."""

    code = "validation_failed"


class Unauthenticated(Rejected):
    """No proof of identity, or one that does not hold (token, signature, password)."""

    code = "unauthenticated"


class Forbidden(Rejected):
    """The caller is known and may not do this."""

    code = "forbidden"


class NotFound(Rejected):
    """There is no such thing, or it is another tenant's: the two are not told apart."""

    code = "not_found"


class Conflicting(Rejected):
    """The call contradicts the present state; `data` may carry what the caller has missed."""

    code = "conflict"


class Unavailable(MijraError):
    """Nothing is wrong with the call; the same call may succeed later."""

    code = "unavailable"
    retryable = True


class MailboxFull(Unavailable):
    """The receiver has as much waiting as it may. Back off and try again."""

    code = "overloaded"


class ActorStopped(Unavailable):
    """The receiver stopped (shutdown or restart limit) before it answered."""

    code = "stopping"


class AskTimeout(Unavailable):
    """No answer within the deadline. The message may still be handled: repeat with the same key."""

    code = "timeout"


class StoreUnavailable(Unavailable):
    """The database cannot be reached or refuses connections."""

    code = "store_unavailable"


class RateLimited(Unavailable):
    """Over an agreed rate; `retry_after_seconds` says when there is room again."""

    code = "rate_limited"


class CommitFailed(MijraError):
    """A write set did not become durable and never will."""

    code = "commit_failed"


class CommitConflict(CommitFailed):
    """A unique key refused a row; `constraint` names it. Reload, look, decide again."""

    code = "commit_conflict"

    def __init__(self, message: str, *, constraint: str = "") -> None:
        super().__init__(message)
        self.constraint = constraint


class CommitPoisoned(CommitFailed):
    """The database refuses these rows for what they contain; they would be refused again."""

    code = "commit_poisoned"


class CommitAbandoned(CommitFailed):
    """An earlier write set of the same activation failed, so this one rests on lost state."""

    code = "commit_abandoned"


class Fenced(CommitFailed):
    """The tenant's fencing epoch moved on: another process owns it. Nothing was written."""

    code = "fenced"


class DeliveryFailed(MijraError):
    """A platform refused or could not take a message; the adapter's error class decides on a retry."""

    code = "delivery_failed"


class Parked(MijraError):
    """The message crashed its actor three times and is kept in the dead letters."""

    code = "parked"


class Defect(MijraError):
    """A broken promise of our own code."""

    code = "internal"
