"""The translation of asyncpg's errors, over every class that asyncpg has."""

import inspect
from collections.abc import Iterator

import asyncpg
import pytest

from engine.errors import CommitConflict, CommitPoisoned, Defect, MijraError, StoreUnavailable
from storage import errors
from storage.databases import DatabaseServer
from storage.errors import FOREIGN_ERRORS, CommitOutcomeUnknown, outcome_unknown, translate, verdict


def foreign_classes() -> Iterator[type[Exception]]:
    """Every exception that asyncpg defines; its warnings and log messages are never raised."""
    for module in (asyncpg.exceptions, asyncpg.exceptions._base):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and not issubclass(kind, Warning):
                yield kind


CLASSES = sorted(set(foreign_classes()), key=lambda kind: (kind.__module__, kind.__name__))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_foreign_class_is_translated_by_an_entry_of_its_own(kind: type[Exception]) -> None:
    """No class falls through to a default: its SQLSTATE class, or its Python class, stands in a table."""
    assert issubclass(kind, FOREIGN_ERRORS)
    sqlstate = getattr(kind, "sqlstate", None)
    if sqlstate is not None:
        assert sqlstate in errors._BY_SQLSTATE or sqlstate[:2] in errors._BY_CLASS
    elif not issubclass(kind, asyncpg.PostgresError):
        assert any(issubclass(kind, known) for known, _ in errors._BY_CLIENT_TYPE)
    error = kind("refused")
    translated = translate(error)
    assert isinstance(translated, MijraError)
    expected = {
        "conflict": CommitConflict,
        "poisoned": CommitPoisoned,
        "unavailable": StoreUnavailable,
        "defect": Defect,
    }
    assert type(translated) is expected[verdict(error)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (asyncpg.UniqueViolationError, CommitConflict),
        (asyncpg.CheckViolationError, CommitPoisoned),
        (asyncpg.CharacterNotInRepertoireError, CommitPoisoned),
        (asyncpg.CardinalityViolationError, CommitPoisoned),
        (asyncpg.DeadlockDetectedError, StoreUnavailable),
        (asyncpg.SerializationError, StoreUnavailable),
        (asyncpg.TooManyConnectionsError, StoreUnavailable),
        (asyncpg.DiskFullError, StoreUnavailable),
        (asyncpg.AdminShutdownError, StoreUnavailable),
        (asyncpg.QueryCanceledError, StoreUnavailable),
        (asyncpg.ReadOnlySQLTransactionError, StoreUnavailable),
        (asyncpg.DataCorruptedError, StoreUnavailable),
        (asyncpg.InvalidCachedStatementError, StoreUnavailable),
        (asyncpg.FeatureNotSupportedError, Defect),
        (asyncpg.InsufficientPrivilegeError, Defect),
        (asyncpg.UndefinedTableError, Defect),
        (ConnectionRefusedError, StoreUnavailable),
        (TimeoutError, StoreUnavailable),
    ],
)
def test_the_family_follows_whose_doing_it_is(kind: type[Exception], expected: type[MijraError]) -> None:
    """The cases that decide what the writer does next, one by one."""
    assert type(translate(kind("refused"))) is expected


@pytest.mark.parametrize(
    ("kind", "unknown"),
    [
        (asyncpg.ConnectionDoesNotExistError, True),
        (asyncpg.AdminShutdownError, True),
        (asyncpg.CrashShutdownError, True),
        (asyncpg.StatementCompletionUnknownError, True),
        (asyncpg.ProtocolError, True),
        (ConnectionResetError, True),
        (TimeoutError, True),
        (asyncpg.SerializationError, False),
        (asyncpg.DeadlockDetectedError, False),
        (asyncpg.UniqueViolationError, False),
        (asyncpg.QueryCanceledError, False),
        (asyncpg.DiskFullError, False),
    ],
)
def test_only_an_ended_session_leaves_a_commit_unknown(kind: type[Exception], unknown: bool) -> None:
    """An answer within a living session proves that the commit failed; a lost session proves nothing."""
    error = kind("refused")
    assert outcome_unknown(error) is unknown
    assert isinstance(translate(error, commit_sent=True), CommitOutcomeUnknown) is unknown
    assert not isinstance(translate(error), CommitOutcomeUnknown)


def test_the_interface_error_of_a_closed_connection_is_not_our_misuse() -> None:
    """The library says "connection is closed" by the class that it uses for wrong calls."""
    error = asyncpg.InterfaceError("connection is closed")
    assert type(translate(error)) is Defect
    assert type(translate(error, connection_closed=True)) is StoreUnavailable


@pytest.mark.real_time
async def test_a_real_conflict_names_its_constraint_and_keeps_the_row_out_of_the_sentence(
    databases: DatabaseServer,
) -> None:
    """The constraint is a fact for the caller; the key's value, a phone number, is in the cause alone."""
    await databases.create_database(databases.landlord_database)
    pool = databases.pool(databases.landlord_database)
    await pool.fetch("CREATE TABLE phones (number text CONSTRAINT phones_are_unique UNIQUE)")
    await pool.fetch("INSERT INTO phones VALUES ('+966500000001')")
    with pytest.raises(CommitConflict) as caught:
        await pool.fetch("INSERT INTO phones VALUES ('+966500000001')")
    assert caught.value.constraint == "phones_are_unique"
    assert "966" not in str(caught.value)
    assert "966" in str(caught.value.__cause__)


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("sql", "argument"),
    [
        ("SELECT $1::bigint", "seven"),
        ("SELECT $1::text", "nul \x00"),
        ("SELECT $1::text::bigint", "+966500x"),
    ],
)
async def test_real_unfit_data_is_poison_and_is_not_quoted(
    databases: DatabaseServer, sql: str, argument: str
) -> None:
    """Refused by the client's encoder, the server's encoding check, and a cast: all are the row's doing."""
    await databases.create_database(databases.landlord_database)
    with pytest.raises(CommitPoisoned) as caught:
        await databases.pool(databases.landlord_database).fetch(sql, argument)
    assert argument not in str(caught.value)
