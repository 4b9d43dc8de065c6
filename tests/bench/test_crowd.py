"""The crowd of the fan-out benches: a figure counts only if every socket heard everything, so that is what it
must notice."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.crowd import Crowd, CrowdFailed, Dialect, Publisher, first_frame, frame, split
from bench.fanout_servers import KERNEL, MARKER, OURS, contestants, event_data, native, payload, started

pytestmark = pytest.mark.real_time


def text(data: bytes) -> bytes:
    return b"\x81\x7e" + len(data).to_bytes(2, "big") + data


def test_frames_are_cut_at_their_boundaries() -> None:
    """Whole ones are taken, the rest stays, wherever the bytes end."""
    stream = text(b"a" * 200) + text(b"b" * 300) + b"\x81\x01c"
    for end in range(len(stream) + 1):
        frames, rest = split(stream[:end])
        assert (
            b"".join(text(data) if len(data) > 1 else b"\x81\x01" + data for _, data in frames) + rest
            == (stream[:end])
        )
    assert [data for _, data in split(stream)[0]] == [b"a" * 200, b"b" * 300, b"c"]
    assert first_frame(b"\x81\x7f\x00") is None


@contextmanager
def server(*frames: bytes) -> Iterator[int]:
    """Accepts one client and sends it these frames; then waits for its end."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        opened, _ = listener.accept()
        with opened:
            opened.recv(4096)
            opened.sendall(b"HTTP/1.1 101 \r\n\r\n" + b"".join(frames))
            try:
                opened.recv(1)
            except ConnectionResetError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join()
        listener.close()


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [((0, 1, 2), None), ((0, 2), "instead of 1"), ((0, 0), "instead of 1"), ((1,), "instead of 0")],
)
def test_what_is_missing_doubled_or_out_of_order_is_noticed(
    numbers: tuple[int, ...], complaint: str | None
) -> None:
    """While resuming, each publication's number is looked at."""
    with server(*(text(payload(number)) for number in numbers)) as port:
        crowd = Crowd(Dialect(marker=MARKER), port, 1)
        try:
            if complaint is None:
                crowd.resume(0, len(numbers), at_once=1)
            else:
                with pytest.raises(CrowdFailed, match=complaint):
                    crowd.resume(0, 3, at_once=1)
        finally:
            crowd.close()


def test_a_gap_is_not_taken_for_an_event() -> None:
    """Nor anything else that is no publication."""
    with server(text(b'{"type":"gap"}' + b" " * 200)) as port:
        crowd = Crowd(Dialect(marker=MARKER), port, 1)
        try:
            with pytest.raises(CrowdFailed, match="not a publication"):
                crowd.resume(0, 1, at_once=1)
        finally:
            crowd.close()


def test_masks_of_zeros_leave_the_payload_as_it_is() -> None:
    """A client's frame must be masked; which mask is its own choice."""
    assert frame(b"hello") == b"\x81\x85\0\0\0\0hello"


@pytest.mark.parametrize("name", [OURS, KERNEL])
def test_a_crowd_hears_each_publication_once(name: str) -> None:
    """From a real server process, closed loop and open loop; the frames have the size that was agreed."""
    (contestant,) = [each for each in contestants() if each.name == name]
    make = event_data if name == OURS else payload
    with started(contestant) as running:
        crowd = Crowd(contestant.dialect, running.port, 5)
        crowd.open()
        publisher = Publisher(contestant.dialect, running.control or running.port, lines=True)
        try:
            flooded = crowd.flood(publisher, make, seconds=0.1, window=3)
            assert flooded.frames == 5 * flooded.publications
            steady = crowd.steady(publisher, make, seconds=0.1, rate=100)
            assert (steady.publications, steady.frames) == (10, 50)
        finally:
            publisher.close()
            crowd.close()
        if name == OURS:
            behind = Crowd(native(since=2), running.port, 3)
            behind.resume(2, flooded.publications + 10 - 2, at_once=3)
            behind.close()
