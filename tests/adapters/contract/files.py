"""A file store in memory."""

from collections.abc import Awaitable, Callable

from engine.errors import NotFound
from engine.ports import MediaFile


class Files:
    """Implements `engine.ports.MediaStore`, as far as senders need one."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content
        self.reads = 0

    async def write(
        self, key: str, chunks: Callable[[], Awaitable[bytes]], *, media_type: str, bytes_max: int
    ) -> MediaFile:
        raise NotImplementedError

    async def read(self, key: str) -> bytes:
        self.reads += 1
        if key not in self.content:
            raise NotFound("There is no such file.")
        return self.content[key]

    async def delete(self, key: str) -> None:
        raise NotImplementedError
