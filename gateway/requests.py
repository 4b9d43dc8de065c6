"""Requests with limits that Quart does not set by itself.

Quart knows one body limit for the whole application and reads a body as fast as it comes, whoever is or is
not consuming it. Here the limit depends on the path, and the body of an upload is read only as fast as it is
stored, so that a fast client cannot fill the memory with a file that a slow store is still writing.
"""

from collections.abc import Callable, Generator
from typing import Any, Final, cast

import trio
from hypercorn.typing import ASGIReceiveCallable
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody
from werkzeug.exceptions import RequestEntityTooLarge

BUFFER_BYTES_MAX: Final = 256 * 1024
"""Read ahead of the consumer of a paced body: some network reads' worth, times the uploads at once."""


class LimitedBody(TrioBody):
    """A body that can hold up its sender (`paced`). It is awaited for the whole, or iterated, not both.

    Nothing of Quart's own is used, because what is inside its bodies differs between Quart 0.22 and 0.23, and
    which one is installed depends on the version of Python. Raises RequestEntityTooLarge to whoever reads a
    body over the limit.
    """

    paced = False

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        self._bytes_max = max_content_length
        self._unread = bytearray()
        self._received = 0
        self._ended = False
        self._too_large = _over(expected_content_length, max_content_length)
        self._arrival = trio.Event()
        self._room = trio.Event()

    @property
    def is_complete(self) -> bool:
        """Whether all of it has arrived and nothing of it was refused."""
        return self._ended and not self._too_large

    async def arrives(self, seconds_max: float) -> bool:
        """Waits for the end of the body, at most so long, and says whether it is complete."""
        with trio.move_on_after(seconds_max):
            while not (self._ended or self._too_large):
                await self._arrival.wait()
        return self.is_complete

    def append(self, data: bytes) -> None:
        """From the connection. Beyond the limit nothing is kept."""
        if self._too_large:
            return
        self._received += len(data)
        self._unread += data
        if _over(self._received, self._bytes_max):
            self._too_large = True
            self._unread.clear()
        self._announce()

    def set_complete(self) -> None:
        self._ended = True
        self._announce()

    def clear(self) -> None:
        self._unread.clear()

    def __await__(self) -> Generator[Any, None, bytes]:
        return self._whole().__await__()

    def __aiter__(self) -> "LimitedBody":
        return self

    async def __anext__(self) -> bytes:
        while not (self._unread or self._ended or self._too_large):
            await self._arrival.wait()
        self._refuse_too_large()
        if not self._unread:
            raise StopAsyncIteration
        data = bytes(self._unread)
        self._unread.clear()
        self._room.set()
        return data

    async def wait_room(self) -> None:
        """Returns when more may be appended. Waits for the consumer, for as long as that takes: the request's
        deadline cancels both."""
        while self.paced and len(self._unread) > BUFFER_BYTES_MAX:
            self._room = trio.Event()
            await self._room.wait()

    async def _whole(self) -> bytes:
        while not (self._ended or self._too_large):
            await self._arrival.wait()
        self._refuse_too_large()
        return bytes(self._unread)

    def _refuse_too_large(self) -> None:
        if self._too_large:
            raise RequestEntityTooLarge

    def _announce(self) -> None:
        self._arrival.set()
        self._arrival = trio.Event()


def _over(count: int | None, most: int | None) -> bool:
    return count is not None and most is not None and count > most


def limited_request(bytes_max: Callable[[str], int], is_paced: Callable[[str], bool]) -> type[TrioRequest]:
    """A request class whose body limit depends on the path."""

    class LimitedRequest(TrioRequest):
        body_class = LimitedBody

        def __init__(self, method: str, scheme: str, path: str, *args: Any, **options: Any) -> None:
            options["max_content_length"] = bytes_max(path)
            super().__init__(method, scheme, path, *args, **options)
            cast(LimitedBody, self.body).paced = is_paced(path)

    return LimitedRequest


class LimitedConnection(TrioASGIHTTPConnection):
    """Asks the body for room before it reads on."""

    async def handle_messages(  # type: ignore[override]  # quart_trio's own signature differs from Quart's
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        body = cast(LimitedBody, request.body)
        while True:
            message = await receive()
            if message["type"] == "http.request":
                body.append(message.get("body", b""))
                if message.get("more_body", False):
                    await body.wait_room()
                else:
                    body.set_complete()
            elif message["type"] == "http.disconnect":
                break
        nursery.cancel_scope.cancel()
