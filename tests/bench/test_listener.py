"""The bench's WebSocket against a real one (wsproto by way of trio-websocket)."""

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from bench.listener import ListenerClosed, open_listener

pytestmark = pytest.mark.real_time


async def serve(request: WebSocketRequest) -> None:
    """Repeats what it hears first, sends frames of all three lengths and a ping, and closes with a reason."""
    if request.path == "/no":
        await request.reject(403)
        return
    connection = await request.accept()
    try:
        heard = await connection.get_message()
        assert isinstance(heard, str)
        await connection.send_message("heard " + heard)
        for size in (5, 125, 126, 65_535, 65_536, 200_000):
            await connection.send_message("x" * size)
        await connection.ping()  # returns when the pong has come
        await connection.send_message("after the ping")
        await connection.aclose(4003, "resume")
    except ConnectionClosed:
        pass


async def test_frames_of_every_length_arrive_in_order_and_pings_are_answered() -> None:
    """Up to the close frame, whose code and reason end the listening."""
    got: list[bytes] = []
    times: list[int] = []

    def note(text: bytes, arrived_ns: int) -> None:
        got.append(text)
        times.append(arrived_ns)

    async with trio.open_nursery() as nursery:
        served = await nursery.start(serve_websocket, serve, "127.0.0.1", 0, None)
        async with open_listener(f"ws://127.0.0.1:{served.port}/ws") as listener:
            await listener.send("grüß dich ".encode() * 20)
            assert (await listener.receive()).decode().startswith("heard grüß dich")
            with pytest.raises(ListenerClosed, match="4003 resume"):
                await listener.listen(note)
        nursery.cancel_scope.cancel()
    assert [len(text) for text in got] == [5, 125, 126, 65_535, 65_536, 200_000, 14]
    assert times == sorted(times)


async def test_a_refused_upgrade_names_the_status() -> None:
    """403 is said, not swallowed."""
    async with trio.open_nursery() as nursery:
        served = await nursery.start(serve_websocket, serve, "127.0.0.1", 0, None)
        with pytest.raises(ListenerClosed, match="403"):
            async with open_listener(f"ws://127.0.0.1:{served.port}/no"):
                pass
        nursery.cancel_scope.cancel()
