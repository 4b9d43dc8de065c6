"""Files under keys: whole or not at all, in a directory and in memory."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from engine.errors import InvalidInput, NotFound, StoreUnavailable
from storage.objects import MEMORY_MAX, PIECE_BYTES, Objects
from storage.upkeep import GRACE_DAYS, RETENTION_DAYS, forget_deliveries

pytestmark = pytest.mark.real_time


@pytest.fixture(params=["file", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects((tmp_path / "new" / "objects").as_uri() if request.param == "file" else "memory:///")


def chunks(parts: Iterable[bytes]) -> Callable[[], Awaitable[bytes]]:
    left = iter(parts)

    async def take() -> bytes:
        return next(left, b"")

    return take


async def write(objects: Objects, key: str, *parts: bytes, bytes_max: int = 10**8) -> str:
    stored = await objects.write(key, chunks(parts), media_type="image/png", bytes_max=bytes_max)
    assert (stored.storage_key, stored.size) == (key, sum(map(len, parts)))
    return stored.sha256


async def test_what_was_written_is_read_and_deleted(objects: Objects) -> None:
    """Small and large, replaced by a second write; gone after deletion, which may be repeated."""
    for content in (b"", b"small", bytes(MEMORY_MAX) * 3 + b"end"):
        digest = await write(objects, "t1/a.b-c_d", content[:1000], content[1000:]) if content else None
        if digest is not None:
            assert digest == hashlib.sha256(content).hexdigest()
            assert await objects.read("t1/a.b-c_d") == content
    await objects.delete("t1/a.b-c_d")
    await objects.delete("t1/a.b-c_d")
    with pytest.raises(NotFound):
        await objects.read("t1/a.b-c_d")


async def test_a_file_is_read_piece_by_piece(objects: Objects) -> None:
    """All of it in order, its size ahead, and never much of it at once; the end stays the end."""
    content = bytes(range(256)) * 8 * 1024
    await write(objects, "large", content)
    opened = await objects.open("large")
    assert opened.size == len(content)
    pieces = []
    while piece := await opened.chunk():
        pieces.append(piece)
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 2 * PIECE_BYTES or len(pieces) == 1  # one in memory is there as a whole
    assert await opened.chunk() == b""
    with pytest.raises(NotFound):
        await objects.open("none")


async def test_a_directory_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    """Other users of the machine do not read what customers sent. One that is there stays as it is."""
    made, there = tmp_path / "with a space", tmp_path / "there"
    there.mkdir(mode=0o755)
    for directory in (made, there):
        await write(Objects(directory.as_uri()), "a", b"x")
        assert (directory / "a").read_bytes() == b"x"
    assert (made.stat().st_mode & 0o777, there.stat().st_mode & 0o777) == (0o700, 0o755)


async def test_an_empty_file_is_a_file(objects: Objects) -> None:
    """Nothing written is still something stored."""
    await write(objects, "empty")
    assert await objects.read("empty") == b""
    assert await (await objects.open("empty")).chunk() == b""


async def test_what_is_too_large_fails_or_is_cancelled_leaves_nothing(objects: Objects) -> None:
    """The limit holds to the byte, and the key stays free."""
    assert await write(objects, "fits", b"x" * 10, bytes_max=10)
    with pytest.raises(InvalidInput) as refused:
        await write(objects, "k", b"x" * 10, b"y", bytes_max=10)
    assert refused.value.code == "too_large"

    async def fail() -> bytes:
        raise RuntimeError("the download broke off")

    with pytest.raises(RuntimeError):
        await objects.write("k", fail, media_type="m", bytes_max=10)

    async def hang() -> bytes:
        await trio.sleep(3600)
        return b""

    with trio.move_on_after(0.05):
        await objects.write("k", hang, media_type="m", bytes_max=10)
    with pytest.raises(NotFound):
        await objects.read("k")


async def test_a_key_that_leaves_the_store_is_refused(objects: Objects) -> None:
    """Traversal, absolute paths, empty parts and odd characters are mistakes of ours."""
    for key in ("", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "a b", "a\0", "ä"):
        with pytest.raises(ValueError, match="storage key"):
            await objects.read(key)


async def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    """The directory became a file: the caller may try again later."""
    objects = Objects((tmp_path / "objects").as_uri())
    (tmp_path / "objects").rmdir()
    (tmp_path / "objects").write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        await write(objects, "a/b", b"x")


async def test_old_files_under_a_prefix_are_forgotten(objects: Objects) -> None:
    """Younger ones, others' and those beyond the limit stay."""
    for key in ("7/deliveries/a", "7/deliveries/b", "7/media/c", "77/deliveries/d"):
        await write(objects, key, b"x")
    now = datetime.now(UTC)
    assert await objects.delete_older("7/deliveries/", now - timedelta(days=1), limit=10) == 0
    assert await objects.delete_older("7/deliveries/", now + timedelta(days=1), limit=1) == 1
    assert await objects.delete_older("7/deliveries/", now + timedelta(days=1), limit=10) == 1
    for key in ("7/media/c", "77/deliveries/d"):
        assert await objects.read(key) == b"x"


async def test_bodies_of_deliveries_live_longer_than_their_rows(objects: Objects) -> None:
    """By the days of the retention and a margin."""
    await write(objects, "7/deliveries/a", b"x")
    now = datetime.now(UTC)
    for days, forgotten in ((RETENTION_DAYS, 0), (RETENTION_DAYS + GRACE_DAYS + 1, 1)):
        later = int((now + timedelta(days=days)).timestamp() * 1000)
        assert await forget_deliveries(objects, ["7/deliveries/"], now=later) == forgotten
