"""What customers write, as signed WhatsApp webhooks, encoded before the clock runs.

Why        Signing and encoding cost the generator more than sending; done beforehand, they disturb no one.
Promises   the same seed gives the same customers and texts in the same order; every message id is new for
           each `Traffic`, names its number, and is found again in whatever a server pushes by
           `Traffic.number_in`.
Leaves     sending to `bench.client`, the shape of the payload to `adapters.simulators.builders`.

The mix: each POST holds one text of 2 to 300 characters (half of them below 40, every fourth in Arabic) from
one of `customers` people, drawn evenly. The mean body is 670 bytes, close to the first measurements' 700.
"""

import random
import secrets
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from adapters.simulators.accounts import WhatsAppAccount
from adapters.simulators.builders import signature, text_webhook_bytes

# Fixed width, so that a number is cut out of a frame without parsing the frame.
_DIGITS: Final = 10
_WORDS: Final = "the order number is still where can you send it blue size large today thanks hello price"
_ARABIC: Final = "مرحبا السعر الطلب متى يصل شكرا أريد المقاس الأزرق اليوم من فضلك عنوان التوصيل"


class Traffic:
    """A stream of requests to one endpoint, for one account or for several in turn. `run` tells its ids from
    every other's; random when not given."""

    def __init__(
        self,
        url: str,
        account: WhatsAppAccount | Sequence[WhatsAppAccount],
        *,
        customers: int = 2000,
        seed: int = 1,
        run: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"the generator speaks plain HTTP: http://host:port/path, not {url!r}")
        self.host: Final = parts.hostname
        self.port: Final = parts.port or 80
        self._accounts: Final = (account,) if isinstance(account, WhatsAppAccount) else tuple(account)
        self._customers: Final = customers
        self._random: Final = random.Random(seed)
        self._marker: Final = f"wamid.HBgL{run or secrets.token_hex(6).upper()}N"
        self._marker_bytes: Final = self._marker.encode()
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._head: Final = (
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: facebookexternalua\r\n"
            f"Accept: */*\r\nContent-Type: application/json\r\nX-Hub-Signature-256: "
        )
        self._texts: Final = [self._text() for _ in range(512)]
        self.requests: Final[list[bytes]] = []

    @property
    def id_prefix(self) -> str:
        """What every message id of this stream begins with, for counting them in a database."""
        return self._marker

    def encode(self, count: int) -> None:
        """Append `count` requests; they carry the present time. About 10 µs each."""
        now = int(time.time())
        choose = self._random.randrange
        for number in range(len(self.requests), len(self.requests) + count):
            customer = choose(self._customers)
            account = self._accounts[number % len(self._accounts)]
            body = text_webhook_bytes(
                account,
                f"2010{customer:08d}",
                f"Customer {customer}",
                f"{self._marker}{number:0{_DIGITS}d}A5Q0FGNjY3OEJBAA==",
                now,
                self._texts[choose(512)],
            )
            signed = signature(account.app_secret, body)
            head = f"{self._head}{signed}\r\nContent-Length: {len(body)}\r\n\r\n"
            self.requests.append(head.encode() + body)

    def number_in(self, frame: bytes) -> int | None:
        """The number of the message that a pushed frame is about; None when it is not of this stream."""
        at = frame.find(self._marker_bytes)
        if at < 0:
            return None
        at += len(self._marker_bytes)
        return int(frame[at : at + _DIGITS])

    def _text(self) -> str:
        words = (_ARABIC if self._random.random() < 0.25 else _WORDS).split()
        length = self._random.randint(2, 40) if self._random.random() < 0.5 else self._random.randint(40, 300)
        text = ""
        while len(text) < length:
            text += f"{self._random.choice(words)} "
        return text[:length].rstrip() + "."
