"""Python `websockets` with its own broadcast, on uvloop: what it recommends for this. Prints its port."""

import asyncio
from typing import Any

import uvloop
from websockets.asyncio.server import broadcast, serve

listening: set[Any] = set()


async def handle(connection: Any) -> None:
    if connection.request.path == "/publish":
        async for message in connection:
            broadcast(listening, message)
        return
    listening.add(connection)
    try:
        await connection.send("ready")
        await connection.wait_closed()
    finally:
        listening.discard(connection)


async def main() -> None:
    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=1024) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())
