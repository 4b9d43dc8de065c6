"""asyncpg in a process of its own, behind a Unix socket: the third candidate of bench.bridge.

    python -m bench.peers.storage_process SOCKET DSN CONNECTIONS

Frames both ways are a length (4 bytes, big-endian) and MessagePack. A request is [number, connection, sql,
arguments]; its answer is [number]. Nothing is checked: it is what such a process would cost at least.
"""

import asyncio
import sys

import asyncpg
import msgspec
import uvloop

Request = tuple[int, int, str, list[list[int | str]]]
_decode = msgspec.msgpack.Decoder(Request).decode
_encode = msgspec.msgpack.Encoder().encode


async def main(path: str, dsn: str, count: int) -> None:
    """Serve one client until it hangs up."""
    connections = [await asyncpg.connect(dsn) for _ in range(count)]
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running: set[asyncio.Task[None]] = set()

        async def run(request: Request) -> None:
            number, at, sql, arguments = request
            await connections[at].execute(sql, *arguments)
            answer = _encode([number])
            writer.write(len(answer).to_bytes(4) + answer)

        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4))
                task = asyncio.create_task(run(_decode(await reader.readexactly(size))))
                running.add(task)
                task.add_done_callback(running.discard)
        except asyncio.IncompleteReadError:
            over.set()

    async with await asyncio.start_unix_server(serve, path):
        print("ready", flush=True)
        await over.wait()
    for connection in connections:
        connection.terminate()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
