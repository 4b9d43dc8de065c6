"""A PostgreSQL that can be away, killed, frozen, or out of disk. For the fault tests and `bench.chaos`."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

from storage.embedded import embedded_postgres

# ── the volume ───────────────────────────────────────────────────────────────────────────────────────


class Volume:
    """Where PostgreSQL's files are. `full` can be asked only of one that is mounted."""

    def __init__(self, path: Path, *, mounted: bool, why_not: str = "") -> None:
        self.path = path
        self.mounted = mounted
        self.why_not = why_not

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a block is left."""
        filler = self.path / "filler"
        try:
            with filler.open("wb") as file:
                size = 1024**3
                while size >= 4096:
                    try:
                        os.posix_fallocate(file.fileno(), file.tell(), size)
                        file.seek(size, os.SEEK_CUR)
                    except OSError:
                        size //= 4
            yield
        finally:
            filler.unlink(missing_ok=True)


@contextmanager
def mounted_volume(directory: Path, size: int) -> Iterator[Volume]:
    """A file system in a sparse file, mounted on a loop device; a plain directory where that is refused."""
    path, image = directory / "volume", directory / "volume.img"
    path.mkdir()
    try:
        why_not = _mount(image, path, size)
    except OSError as error:
        why_not = str(error)
    if why_not:
        image.unlink(missing_ok=True)
        yield Volume(path, mounted=False, why_not=why_not)
        return
    try:
        yield Volume(path, mounted=True)
    finally:
        # Lazily: a process of the server that is still leaving must not keep the mount for good.
        subprocess.run(["umount", "--lazy", str(path)], check=False)
        image.unlink(missing_ok=True)


def _mount(image: Path, path: Path, size: int) -> str:
    """Why it cannot be mounted, or nothing."""
    if os.geteuid() != 0:
        return "only root may mount a volume"
    if shutil.which("mkfs.ext4") is None:
        return "there is no mkfs.ext4"
    with image.open("wb") as file:
        file.truncate(size)
    # No blocks are kept for root: full is full for everybody.
    for command in (
        ["mkfs.ext4", "-q", "-F", "-m", "0", str(image)],
        ["mount", "-o", "loop", str(image), str(path)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{command[0]}: {done.stderr.strip() or done.returncode}"
    return ""


# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────


class Postgres:
    """The embedded server, to be stopped, killed, frozen and started again."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.dsn = ""
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        self.dsn = await self._stack.enter_async_context(embedded_postgres(self.data_dir))

    async def stop(self) -> None:
        """In order, or whatever is left of it."""
        await self._stack.aclose()

    @property
    def pid(self) -> int:
        return int((self.data_dir / "cluster" / "postmaster.pid").read_text().split()[0])

    @property
    def alive(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").exists()
        except (FileNotFoundError, IndexError):
            return False

    def children(self) -> list[int]:
        try:
            return [
                int(one) for one in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            ]
        except FileNotFoundError:
            return []

    def kill(self) -> None:
        """The postmaster alone: its children find out and leave."""
        os.kill(self.pid, signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No process of it runs: connections stay, and nobody answers."""
        everybody = [self.pid, *self.children()]
        for process in everybody:
            _signal(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in everybody:
                _signal(process, signal.SIGCONT)


def _signal(process: int, which: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, which)
