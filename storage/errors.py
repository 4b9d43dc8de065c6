"""asyncpg's errors in the engine's words, translated once, here.

A translated error keeps its cause. Its sentence carries PostgreSQL's primary message, which names
constraints, columns and types; the DETAIL line, which quotes the contents of rows, stays in the cause and out
of our logs.

The table goes by SQLSTATE class (PostgreSQL manual, appendix A), with single codes where a class is mixed.
Four verdicts:

conflict     a unique key says that it is there already                     CommitConflict(constraint)
poisoned     the rows are refused for what they contain, now and later      CommitPoisoned
unavailable  the server, the connection or the moment; waiting helps        StoreUnavailable
defect       a statement or a state that only our code can have caused      Defect

A connection that ends while a COMMIT is under way leaves its outcome unknown. `translate` says so with
`CommitOutcomeUnknown` when it is told that the commit had been sent, and only for errors after which the
server may have committed.
"""

from typing import Final, Literal

import asyncpg

from engine.errors import CommitConflict, CommitPoisoned, Defect, MijraError, StoreUnavailable

Verdict = Literal["conflict", "poisoned", "unavailable", "defect"]

# An argument that cannot be encoded as its parameter's type. asyncpg hides its own class of this name behind
# PostgreSQL's DataError (class 22), so it has no public spelling.
_EncodingError = asyncpg.exceptions._base.DataError

# The schema changed under a prepared statement; the retry prepares it anew. The first one shares its SQLSTATE
# with "feature not supported".
_STALE_PLAN = (asyncpg.exceptions.InvalidCachedStatementError, asyncpg.exceptions.OutdatedSchemaCacheError)


class CommitOutcomeUnknown(StoreUnavailable):
    """The connection ended during the commit. Look up the batch id before anything is written again."""


class SchemaRefused(MijraError):
    """The schema and this version of Mijra do not belong together; the sentence says what to do."""

    code = "schema_refused"


class ServerUnsuitable(MijraError):
    """PostgreSQL answers but cannot serve Mijra as it is configured; the sentence says what to change."""

    code = "server_unsuitable"


_BY_SQLSTATE: Final[dict[str, Verdict]] = {
    "23505": "conflict",
    "23P01": "conflict",  # exclusion constraint: a unique key with another operator
    "40002": "poisoned",  # a constraint refused at commit, in the class of deadlocks
    "25006": "unavailable",  # read-only: a standby, or a primary that was just demoted
    "25P03": "unavailable",  # idle in transaction too long
    "25P04": "unavailable",  # transaction timeout
    "55006": "unavailable",  # object in use
    "55P03": "unavailable",  # lock not available
    # Corruption: never dead-letter customers' messages for a broken disk; refuse until somebody has looked.
    "XX001": "unavailable",
    "XX002": "unavailable",
}

_BY_CLASS: Final[dict[str, Verdict]] = {
    "03": "defect",
    "08": "unavailable",  # connection
    "09": "poisoned",  # a trigger refused
    "0A": "defect",
    "0B": "defect",
    "0F": "defect",
    "0L": "defect",
    "0P": "unavailable",  # the role is missing: an operator's doing
    "0Z": "defect",
    "10": "poisoned",  # XQuery argument
    "20": "poisoned",
    "21": "poisoned",  # cardinality, such as one key twice in one upsert
    "22": "poisoned",  # data exception
    "23": "poisoned",  # integrity
    "24": "defect",
    "25": "defect",
    "26": "unavailable",  # a prepared statement is gone: a pooler or a reset server; a new connection helps
    "27": "poisoned",
    "28": "unavailable",  # password or pg_hba: an operator's doing
    "2B": "defect",
    "2D": "defect",
    "2F": "poisoned",
    "34": "defect",
    "38": "poisoned",
    "39": "poisoned",
    "3B": "defect",
    "3D": "unavailable",  # the database does not exist: not restored yet
    "3F": "defect",
    "40": "unavailable",  # deadlock, serialization: the next try may pass
    "42": "defect",  # syntax, undefined names, and row-level security refusing a row of another tenant
    "44": "poisoned",
    "53": "unavailable",  # disk, memory, connections
    "54": "poisoned",  # too large for an index, a row or the parser
    "55": "defect",
    "57": "unavailable",  # shutdown, statement timeout
    "58": "unavailable",  # I/O
    "72": "unavailable",
    "F0": "unavailable",
    "HV": "defect",  # foreign data wrappers, which we do not use
    "P0": "poisoned",  # raised by a function or trigger
    # An internal error that one row can reproduce is that row's doing; bisecting a batch finds it.
    "XX": "poisoned",
}

# The client library's own classes, most specific first; they have no SQLSTATE.
_BY_CLIENT_TYPE: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], Verdict], ...]] = (
    (_STALE_PLAN, "unavailable"),
    (_EncodingError, "poisoned"),
    (asyncpg.exceptions.ClientConfigurationError, "defect"),
    (asyncpg.exceptions.UnsupportedClientFeatureError, "defect"),
    (asyncpg.exceptions.UnsupportedServerFeatureError, "defect"),
    (asyncpg.exceptions.TargetServerAttributeNotMatched, "unavailable"),
    (
        asyncpg.exceptions.InternalClientError,
        "unavailable",
    ),  # the protocol is out of step; reconnecting helps
    (asyncpg.exceptions.InterfaceError, "defect"),
    (OSError, "unavailable"),  # refused, reset, no such socket
)

# What a call of asyncpg can raise because of the server, the network or the data. Anything else is a bug of
# ours and passes through untouched.
FOREIGN_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.exceptions.InterfaceError,
    asyncpg.exceptions.InternalClientError,
    OSError,  # TimeoutError is one
)

_FATAL_SEVERITIES: Final = frozenset({"FATAL", "PANIC"})


def verdict(error: Exception, *, connection_closed: bool = False) -> Verdict:
    """What kind of failure one of `FOREIGN_ERRORS` is; "defect" for any other exception.

    `connection_closed` tells whether the connection was found closed afterwards: the library then reports
    later calls as misuse of its interface, which they are not.
    """
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, _STALE_PLAN):
        sqlstate: str | None = error.sqlstate
        if sqlstate is None:
            # A bare base class: the server ended the session before it said why.
            return "unavailable" if isinstance(error, asyncpg.exceptions.FatalPostgresError) else "defect"
        return _BY_SQLSTATE.get(sqlstate) or _BY_CLASS.get(sqlstate[:2], "defect")
    if connection_closed and type(error) is asyncpg.exceptions.InterfaceError:
        return "unavailable"
    return next((found for kind, found in _BY_CLIENT_TYPE if isinstance(error, kind)), "defect")


def outcome_unknown(error: Exception, *, connection_closed: bool = False) -> bool:
    """Whether a commit that was under way when this error arrived may have become durable.

    An error that the server reports within a living session means that it did not commit. A lost connection,
    a session ended by the server, a client-side timeout and a protocol out of step prove nothing.
    """
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        ended = getattr(error, "severity_en", None) in _FATAL_SEVERITIES
        # 57P: shutdown, crash, database dropped; the session is over whatever the severity says.
        return connection_closed or ended or sqlstate == "40003" or sqlstate.startswith(("08", "57P"))
    return isinstance(error, (OSError, TimeoutError, asyncpg.exceptions.InternalClientError)) or (
        connection_closed and type(error) is asyncpg.exceptions.InterfaceError
    )


def translate(error: Exception, *, commit_sent: bool = False, connection_closed: bool = False) -> MijraError:
    """The engine's error for one of `FOREIGN_ERRORS`, to be raised `from` it.

    `commit_sent`: a commit (or a statement outside a transaction, which commits itself) was under way.
    """
    sentence = _sentence(error)
    if commit_sent and outcome_unknown(error, connection_closed=connection_closed):
        return CommitOutcomeUnknown(f"The connection ended during a commit: {sentence}")
    match verdict(error, connection_closed=connection_closed):
        case "conflict":
            constraint = getattr(error, "constraint_name", None) or ""
            return CommitConflict(f"The row is there already: {sentence}", constraint=constraint)
        case "poisoned":
            return CommitPoisoned(f"The database refuses the rows: {sentence}")
        case "unavailable":
            return StoreUnavailable(f"The database is not available: {sentence}")
        case "defect":
            return Defect(f"The database refuses the statement: {sentence}")


def _sentence(error: Exception) -> str:
    """The primary message. asyncpg's client-side DataError quotes the argument, so only its type is named."""
    if isinstance(error, _EncodingError):
        return "an argument does not fit its parameter's type"
    if isinstance(error, asyncpg.PostgresError):
        # asyncpg's str() appends DETAIL and HINT; the attribute is the message alone. PostgreSQL quotes
        # values in some messages of class 22 (invalid input syntax), so there the code has to do.
        name = type(error).__name__
        if (error.sqlstate or "").startswith("22"):
            return f"{name} ({error.sqlstate})"
        return f"{name} ({error.sqlstate}): {getattr(error, 'message', None) or error.args[0]}"
    return f"{type(error).__name__}: {error}"
