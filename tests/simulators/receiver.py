"""A small business: it takes webhooks, checks their signatures and can be told how to answer."""

import hashlib
import hmac
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from adapters.simulators import Settings, Simulator, WhatsAppAccount, demo_account
from adapters.simulators.http import HttpServer, Request, Response
from tests.patience import PATIENCE_SECONDS

ACCOUNT = demo_account()
OTHER = demo_account(1)

QUICK = Settings(
    retry_gaps_seconds=(0.02, 0.04, 0.08),
    sent_seconds=(0.0, 0.01),
    delivered_seconds=(0.0, 0.01),
    read_seconds=(0.0, 0.01),
    duplicate_seconds=(0.0, 0.02),
    late_seconds=(0.02, 0.1),
    webhook_answer_seconds_max=PATIENCE_SECONDS,
)
"""The platform with all its waits shortened, and its patience with the business lengthened."""


class Receiver:
    """What came in, and `answers`: statuses for the next deliveries, 200 when there are none left."""

    def __init__(self, secret: str = ACCOUNT.app_secret, verify_token: str = ACCOUNT.verify_token) -> None:
        self.secret = secret
        self.verify_token = verify_token
        self.bodies: list[bytes] = []
        self.taken: list[dict[str, Any]] = []
        self.bad_signatures = 0
        self.answers: deque[int] = deque()
        self.hang_seconds = 0.0
        self.url = ""

    async def answer(self, request: Request) -> Response:
        if request.method == "GET":
            if request.query.get("hub.verify_token") != self.verify_token:
                return Response(403, b"no", "text/plain")
            return Response(200, request.query["hub.challenge"].encode(), "text/plain")
        digest = hmac.new(self.secret.encode(), request.body, hashlib.sha256).hexdigest()
        if request.headers.get("x-hub-signature-256") != f"sha256={digest}":
            self.bad_signatures += 1
            return Response(401)
        self.bodies.append(request.body)
        if self.hang_seconds:
            await trio.sleep(self.hang_seconds)
        status = self.answers.popleft() if self.answers else 200
        if status == 200:
            self.taken.append(json.loads(request.body))
        return Response(status)

    def values(self) -> list[dict[str, Any]]:
        """The values of all changes that were answered 200, in order."""
        return [
            change["value"] for one in self.taken for entry in one["entry"] for change in entry["changes"]
        ]

    def messages(self) -> list[dict[str, Any]]:
        return [message for value in self.values() for message in value.get("messages", ())]

    def statuses(self, message_id: str | None = None) -> list[dict[str, Any]]:
        found = [status for value in self.values() for status in value.get("statuses", ())]
        return [one for one in found if message_id in (None, one["id"])]


@asynccontextmanager
async def listening(
    handler: Callable[[Request], Awaitable[Response]], body_bytes_max: int = 3_000_000
) -> AsyncIterator[HttpServer]:
    """A server on a free port for the length of the block."""
    server = HttpServer(handler, body_limit=lambda method, path: body_bytes_max)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def playing(
    settings: Settings = QUICK, accounts: tuple[WhatsAppAccount, ...] = (ACCOUNT,), seed: int = 1
) -> AsyncIterator[tuple[Simulator, Receiver]]:
    """A simulator that is connected to a receiver."""
    receiver = Receiver()
    async with (
        listening(receiver.answer) as server,
        Simulator(accounts, seed=seed, settings=settings, username_share=0.0).running() as platform,
    ):
        receiver.url = f"{server.base_url}/hook"
        for account in accounts:
            if account.verify_token == receiver.verify_token:
                await platform.connect(receiver.url, account.phone_number_id)
        yield platform, receiver
