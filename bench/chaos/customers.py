"""Customers who write: webhooks with one to five messages, posted until they are answered 200.

One customer's next webhook is posted only when the last one was answered, so the order in which his messages
must be stored is known. Some connections, each one trio task; what goes over the wire is written by hand.
"""

import random
import time
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from adapters.simulators.accounts import WhatsAppAccount
from adapters.simulators.builders import signature
from bench.chaos.ledger import Account
from bench.client import LoadFailed, parse_answer

CUSTOMERS: Final = 1000
MESSAGES_MAX: Final = 5
"""In one webhook; n of them are drawn with a weight of 1/n, which makes two on average."""
TWO_PEOPLE: Final = 0.3
"""The share of webhooks with several messages in which two people's are mixed."""
REPEATED: Final = 0.02
"""The share that is posted again although it was answered."""
ANSWER_SECONDS_MAX: Final = 15.0
_AGAIN_SECONDS: Final = (0.1, 0.3)
_WORDS: Final = (
    "where",
    "is",
    "my",
    "order",
    "thanks",
    "hello",
    "مرحبا",
    "السعر",
    "الطلب",
    "متى",
    "يصل",
    "شكرا",
)


class Pace:
    """Turns at a rate, without making up for an outage; no rate, no waiting."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 0.0 if rate is None else 1 / rate
        self._due = 0.0

    async def turn(self) -> None:
        now = trio.current_time()
        due = max(self._due, now)
        self._due = due + self._interval
        await trio.sleep(due - now)


class Crowd:
    """The customers of one business."""

    def __init__(
        self,
        account: Account,
        address: tuple[str, int],
        rng: random.Random,
        on_acknowledged: Callable[[float], None],
        messages_max: int = MESSAGES_MAX,
    ) -> None:
        self.account = account
        self.over = False
        self.refused = 0
        self.unanswered = 0
        self._address = address
        self._rng = rng
        self._on_acknowledged = on_acknowledged
        self._free = list(range(CUSTOMERS))
        self._counts = range(1, messages_max + 1)
        self._weights = [1 / count for count in self._counts]

    async def write(self, pace: Pace) -> None:
        """One connection's life, until `over` and its last webhook is answered."""
        stream: trio.SocketStream | None = None
        try:
            while True:
                await pace.turn()
                if self.over:
                    return
                people, numbers, request = self._webhook()
                while True:
                    posted = time.monotonic()
                    stream, status = await self._post(stream, request)
                    if status == 200:
                        break
                    if status is None:
                        self.unanswered += 1
                    else:
                        self.refused += 1
                    await trio.sleep(self._rng.uniform(*_AGAIN_SECONDS))
                self.account.acknowledge(numbers)
                self._on_acknowledged(posted)
                self._free += people
                if self._rng.random() < REPEATED:
                    self.account.repeated += 1
                    stream, _ = await self._post(stream, request)
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    def _webhook(self) -> tuple[list[int], list[int], bytes]:
        rng = self._rng
        (count,) = rng.choices(self._counts, self._weights)
        people = [self._take()]
        if count > 1 and rng.random() < TWO_PEOPLE:
            people.append(self._take())
        numbers = self.account.next_numbers(count)
        now, texts = int(time.time()), rng.choices(_WORDS, k=8)
        said = []
        for at, number in enumerate(numbers):
            said.append(
                (
                    people[at % len(people)],
                    self.account.platform_id(number),
                    f"{number} {' '.join(texts[at:])}",
                )
            )
        business = self.account.business
        return people, list(numbers), request_of(business.account, said, now)

    def _take(self) -> int:
        at = self._rng.randrange(len(self._free))
        self._free[at], self._free[-1] = self._free[-1], self._free[at]
        return self._free.pop()

    async def _post(
        self, stream: trio.SocketStream | None, request: bytes
    ) -> tuple[trio.SocketStream | None, int | None]:
        """The connection to go on with, and the status; None when there was no answer."""
        with trio.move_on_after(ANSWER_SECONDS_MAX):
            try:
                if stream is None:
                    stream = await trio.open_tcp_stream(*self._address)
                await stream.send_all(request)
                data = b""
                while True:
                    more = await stream.receive_some(65536)
                    if not more:
                        break
                    data += more
                    answer = parse_answer(data)
                    if answer is not None:
                        status, keep = answer
                        if not keep:
                            await trio.aclose_forcefully(stream)
                            stream = None
                        return stream, status
            except (OSError, trio.BrokenResourceError, LoadFailed):
                pass
        if stream is not None:
            await trio.aclose_forcefully(stream)
        return None, None


def request_of(account: WhatsAppAccount, said: list[tuple[int, str, str]], now: int) -> bytes:
    """The bytes of a POST with these texts: (customer, platform id, text)."""
    people = dict.fromkeys(customer for customer, _, _ in said)
    value = {
        "messaging_product": "whatsapp",
        "metadata": {
            "display_phone_number": account.display_phone_number,
            "phone_number_id": account.phone_number_id,
        },
        "contacts": [{"profile": {"name": f"Customer {one}"}, "wa_id": _wa_id(one)} for one in people],
        "messages": [
            {"from": _wa_id(one), "id": wamid, "timestamp": str(now), "type": "text", "text": {"body": text}}
            for one, wamid, text in said
        ],
    }
    entry = {"id": account.waba_id, "changes": [{"value": value, "field": "messages"}]}
    body = msgspec.json.encode({"object": "whatsapp_business_account", "entry": [entry]})
    head = (
        "POST /api/webhooks/whatsapp HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: facebookexternalua\r\n"
        f"Content-Type: application/json\r\nX-Hub-Signature-256: {signature(account.app_secret, body)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _wa_id(customer: int) -> str:
    return f"2010{customer:08d}"
