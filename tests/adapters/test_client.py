"""Calls to a platform: what is surely not sent, what nobody can know, and for how long a platform makes us
wait."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from adapters.calling import RETRY_SECONDS_MAX
from adapters.client import ANSWER_BYTES_MAX, PlatformClient, ReadFailure
from adapters.email.posting import read_answer
from adapters.google_business import errors as google
from adapters.guard import Guard
from adapters.meta import errors as meta
from adapters.port import Declined, ErrorClass, Unanswered
from adapters.simulators.http import Cut, HttpServer, Request, Response
from adapters.sms import errors as sms
from adapters.tiktok import errors as tiktok
from adapters.whatsapp import errors as whatsapp
from tests.adapters.turns import AtOnce

SECRET = "token-that-nobody-may-see"


@asynccontextmanager
async def platform(
    answer: Response | Cut, *, seconds_max: float = 5.0
) -> AsyncIterator[tuple[PlatformClient, str, list[Request]]]:
    """A client, the address of a server that always answers so, and the requests that it gets."""
    requests: list[Request] = []

    async def respond(request: Request) -> Response:
        requests.append(request)
        if isinstance(answer, Cut):
            raise answer
        return answer

    server = HttpServer(respond, body_limit=lambda method, path: 10_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        guard = Guard(allowed=[server.base_url.removeprefix("http://")])
        async with PlatformClient(guard, "Pigeon", connections_max=2, seconds_max=seconds_max) as client:
            yield client, server.base_url, requests
        nursery.cancel_scope.cancel()


class Never:
    """A turn that does not come."""

    async def come(self) -> None:
        await trio.sleep_forever()

    def written(self) -> None:
        raise AssertionError("nothing is written before its turn")


@pytest.mark.real_time
async def test_a_call_whose_turn_does_not_come_was_surely_not_sent() -> None:
    """So it is tried again, and nobody has to wait for a sign that it arrived."""
    async with platform(Response(200, b"{}"), seconds_max=0.2) as (client, url, requests):
        result = await client.call("POST", url, json={}, turn=Never())
    assert isinstance(result, Declined)
    assert result.error_class is ErrorClass.UNREACHABLE
    assert not requests


# An answer that is not read to its end leaves a generator of httpcore's to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.real_time
@pytest.mark.parametrize(
    "answer", [Cut(reset=True), Cut(reset=False), Response(200, b"x" * (ANSWER_BYTES_MAX + 1))]
)
async def test_what_was_written_and_not_answered_is_unknown(answer: Response | Cut) -> None:
    """With and without a turn: a connection that ends, and an answer that nobody reads to its end. What sends
    no message is tried again."""
    async with platform(answer) as (client, url, requests):
        turn = AtOnce()
        assert isinstance(await client.call("POST", url, json={}, turn=turn), Unanswered)
        assert isinstance(await client.call("POST", url, json={}), Unanswered)
        again = await client.ask("GET", url)
    assert turn.writings == 1
    assert len(requests) == 3
    assert isinstance(again, Declined)
    assert again.error_class is ErrorClass.TRANSIENT


@pytest.mark.real_time
@pytest.mark.parametrize(
    "url",
    ["ftp://pigeon.example/", "http://[::1]:9/", "http://x\ny/", "https://127.0.0.1/", "https://\ud800/"],
)
async def test_an_address_that_may_not_be_called_is_the_accounts_fault(url: str) -> None:
    """Surely not sent, and a person has to act. The sentence has nothing of the request in it."""
    async with PlatformClient(Guard(), "Pigeon", connections_max=1) as client:
        result = await client.call("POST", url, headers={"Authorization": f"Bearer {SECRET}"}, json={})
    assert isinstance(result, Declined)
    assert (result.error_class, result.platform_code) == (ErrorClass.ACCOUNT, "address_refused")
    assert SECRET not in result.message


@pytest.mark.real_time
async def test_a_header_that_cannot_be_sent_is_not_told() -> None:
    """The library's own sentence would repeat it."""
    async with platform(Response(200, b"{}")) as (client, url, requests):
        result = await client.call("POST", url, headers={"Authorization": f"Bearer {SECRET}\n"})
    assert isinstance(result, Declined)
    assert SECRET not in result.message
    assert not requests


READERS: Mapping[str, ReadFailure] = {
    "whatsapp": whatsapp.read_failure,
    "messenger": partial(meta.read_failure, label="Messenger"),
    "tiktok": tiktok.read_failure,
    "google": google.read_failure,
    "sms": sms.read_failure,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, None), ("x", None), ("-1", None), ("nan", None), ("7", 7.0), ("0.5", 0.5)]
    + [(forever, RETRY_SECONDS_MAX) for forever in ("9e9", "99999999999999999999", "inf")],
)
def test_retry_after_is_read_with_care(name: str, given: str | None, seconds: float | None) -> None:
    """Nonsense is none, and nobody makes us wait for longer than a day."""
    headers = {} if given is None else {"retry-after": given}
    result = READERS[name](429, b"", headers)
    assert isinstance(result, Declined)
    assert (result.error_class, result.retry_after_seconds) == (ErrorClass.RATE_ACCOUNT, seconds)


@pytest.mark.parametrize("service", ["mailgun", "sendgrid", "postmark"])
def test_a_mail_service_makes_nobody_wait_for_longer_than_a_day(service: str) -> None:
    result = read_answer(service, 429, b"", {"retry-after": "9e9"})
    assert isinstance(result, Declined)
    assert result.retry_after_seconds == RETRY_SECONDS_MAX
