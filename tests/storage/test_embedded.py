"""The embedded server: its data, its owner's death, its own death, and places where it can hardly live.

Each test has a server of its own (they are killed), hence the `slow` mark.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import trio

from storage.bridge import Bridge
from storage.embedded import SOCKET_PATH_BYTES_MAX, embedded_postgres, server_settings
from storage.errors import ServerUnsuitable
from tests.patience import PATIENCE_SECONDS

pytestmark = [pytest.mark.real_time, pytest.mark.slow]


async def query(dsn: str, *statements: str) -> list[asyncpg.Record]:
    """Run the statements on a new connection; the rows of the last one."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn, timeout=PATIENCE_SECONDS)
        try:
            rows: list[asyncpg.Record] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    async with Bridge() as bridge:
        return await bridge.run(run)


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "cluster" / "postmaster.pid").read_text().split()[0])


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


_OWNER = """
import sys, trio
from pathlib import Path
from storage.embedded import embedded_postgres

async def main(data_dir):
    async with embedded_postgres(Path(data_dir)) as dsn:
        print(dsn, file=sys.stderr, flush=True)
        await trio.sleep_forever()

trio.run(main, sys.argv[1])
"""


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[trio.Process]:
    """Another process that holds a server in `tmp_path`, ready."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _OWNER, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    with trio.fail_after(PATIENCE_SECONDS):
        assert (await process.stderr.receive_some()).startswith(b"postgresql://")
    yield process
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            process.kill()
        await process.wait()
        # A test may have left the server to the owner, which did not live to stop it.
        if (tmp_path / "cluster" / "postmaster.pid").exists():
            async with embedded_postgres(tmp_path):
                pass


async def test_the_same_directory_comes_back_with_the_same_data(tmp_path: Path) -> None:
    """A table made before an orderly stop is there after the next start, and the stop leaves no process."""
    async with embedded_postgres(tmp_path) as dsn:
        await query(dsn, "CREATE TABLE kept AS SELECT 7 AS seven")
        first = postmaster(tmp_path)
    assert not alive(first)
    async with embedded_postgres(tmp_path) as dsn:
        assert (await query(dsn, "SELECT seven FROM kept"))[0][0] == 7


async def test_durability_is_on_and_no_port_is_open(tmp_path: Path) -> None:
    """The settings that a 200 to a platform rests on, as the running server reports them."""
    async with embedded_postgres(tmp_path) as dsn:
        names = ("fsync", "full_page_writes", "synchronous_commit", "data_checksums", "listen_addresses")
        rows = await query(dsn, f"SELECT name, setting FROM pg_settings WHERE name IN {names}")
    assert {row["name"]: row["setting"] for row in rows} == {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "listen_addresses": "",
    }


async def test_the_socket_lets_in_its_owner_alone(tmp_path: Path) -> None:
    """The server trusts whoever reaches the socket, so its directory must let nobody else through."""
    async with embedded_postgres(tmp_path):
        assert (tmp_path / "run").stat().st_mode & 0o077 == 0
        assert (tmp_path / "cluster").stat().st_mode & 0o077 == 0


async def test_a_server_whose_owner_was_killed_is_adopted_and_stopped(
    owner: trio.Process, tmp_path: Path
) -> None:
    """kill -9 of the owner leaves the server; the next start takes over that very process, and ends it."""
    orphan = postmaster(tmp_path)
    owner.kill()
    await owner.wait()
    assert alive(orphan)
    async with embedded_postgres(tmp_path) as dsn:
        assert postmaster(tmp_path) == orphan
        assert (await query(dsn, "SELECT 1"))[0][0] == 1
    assert not alive(orphan)


async def test_processes_share_a_server_and_the_last_one_stops_it(
    owner: trio.Process, tmp_path: Path
) -> None:
    """The first to leave stops nothing; when the second was killed too, the next one still adopts it."""
    shared = postmaster(tmp_path)
    async with embedded_postgres(tmp_path):
        assert postmaster(tmp_path) == shared
    assert alive(shared)
    assert owner.returncode is None
    owner.kill()
    await owner.wait()
    async with embedded_postgres(tmp_path):
        pass
    assert not alive(shared)


@pytest.mark.parametrize("victims", ["postmaster", "everything"])
async def test_committed_data_survives_the_kill_of_the_server(
    owner: trio.Process, tmp_path: Path, victims: str
) -> None:
    """kill -9 of the postmaster alone (its children are still leaving) or of owner and server together."""
    dsn = f"postgresql://postgres@/postgres?host={tmp_path}/run"
    await query(dsn, "CREATE TABLE kept (id int)", "INSERT INTO kept SELECT generate_series(1, 1000)")
    server = postmaster(tmp_path)
    if victims == "everything":
        owner.kill()
        await owner.wait()
    os.kill(server, signal.SIGKILL)
    async with embedded_postgres(tmp_path) as dsn:
        assert postmaster(tmp_path) != server
        assert (await query(dsn, "SELECT count(*) FROM kept"))[0][0] == 1000


async def test_a_stale_lock_whose_number_is_somebody_elses_now_is_no_obstacle(tmp_path: Path) -> None:
    """After a reboot any process may have the number in postmaster.pid: this test's own, for one."""
    async with embedded_postgres(tmp_path) as dsn:
        await query(dsn, "CREATE TABLE kept AS SELECT 7 AS seven")
        lock = (tmp_path / "cluster" / "postmaster.pid").read_text().splitlines()
    lock[0] = str(os.getpid())
    (tmp_path / "cluster" / "postmaster.pid").write_text("\n".join(lock) + "\n")
    async with embedded_postgres(tmp_path) as dsn:
        assert (await query(dsn, "SELECT seven FROM kept"))[0][0] == 7


async def test_an_initialisation_that_was_killed_is_begun_anew(tmp_path: Path) -> None:
    """What a dead initdb left behind is not taken for a cluster."""
    (tmp_path / "cluster.new").mkdir(mode=0o700)
    (tmp_path / "cluster.new" / "PG_VERSION").write_text("18\n")
    async with embedded_postgres(tmp_path) as dsn:
        assert (await query(dsn, "SELECT 1"))[0][0] == 1


async def test_a_path_that_is_too_long_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    """The data stays where it was asked to be; only the socket moves, and the next start finds it again."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    assert len(str(deep / "run")) > SOCKET_PATH_BYTES_MAX
    sockets: set[str] = set()
    for _ in range(2):
        async with embedded_postgres(deep) as dsn:
            assert (await query(dsn, "SELECT 1"))[0][0] == 1
            sockets.add(dsn.split("host=")[1])
    assert (deep / "cluster" / "PG_VERSION").exists()
    (socket_dir,) = sockets
    assert socket_dir.startswith("/tmp/mijra-")
    await trio.Path(socket_dir).rmdir()


async def test_a_cancelled_user_leaves_no_server(tmp_path: Path) -> None:
    """Cancellation inside stops the server in order before it goes on outside."""
    with trio.CancelScope() as scope:
        async with embedded_postgres(tmp_path):
            server = postmaster(tmp_path)
            scope.cancel()
            await trio.sleep_forever()
    assert not alive(server)


async def test_data_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Version, directory and the way out stand in the sentence."""
    (tmp_path / "cluster").mkdir(mode=0o700)
    (tmp_path / "cluster" / "PG_VERSION").write_text("15\n")
    with pytest.raises(ServerUnsuitable, match="PostgreSQL 15 and this is 18: dump it"):
        async with embedded_postgres(tmp_path):
            pass


@pytest.mark.parametrize("name", ["dollar$", 'quote"', "tick`"])
async def test_a_path_that_a_shell_would_read_differently_is_refused(tmp_path: Path, name: str) -> None:
    """pg_ctl hands paths to a shell; better a sentence than a surprise."""
    with pytest.raises(ServerUnsuitable, match="choose another"):
        async with embedded_postgres(tmp_path / name):
            pass


async def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """A damaged control file: the sentence carries what PostgreSQL said about it."""
    async with embedded_postgres(tmp_path):
        pass
    (tmp_path / "cluster" / "global" / "pg_control").write_bytes(b"\0" * 8192)
    with pytest.raises(ServerUnsuitable, match=r"(?s)did not start.*(checksum|incompatible)"):
        async with embedded_postgres(tmp_path):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs all the other tests as one already")
async def test_an_ordinary_user_runs_its_own_server(tmp_path: Path) -> None:
    """Without root no second user is involved: files and processes belong to whoever started it."""
    nobody = 65534
    os.chown(tmp_path, nobody, nobody)
    for directory in (tmp_path, *tmp_path.parents):
        directory.chmod(directory.stat().st_mode | 0o011)
    # Begun as root, since an ordinary user may not reach the interpreter, and dropped before the call.
    code = _OWNER.replace("await trio.sleep_forever()", "pass").replace(
        "trio.run", "import os\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\ntrio.run"
    )
    done = await trio.run_process(
        [sys.executable, "-c", code, str(tmp_path)], capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "cluster").stat().st_uid == nobody


@pytest.mark.parametrize(
    ("memory_bytes", "shared"), [(256 << 20, "64MB"), (4 << 30, "512MB"), (64 << 30, "1024MB")]
)
def test_the_server_takes_an_eighth_of_the_memory_within_bounds(memory_bytes: int, shared: str) -> None:
    """Neither starved on a small machine nor greedy on a large one that the engine shares."""
    assert server_settings(memory_bytes)["shared_buffers"] == shared
