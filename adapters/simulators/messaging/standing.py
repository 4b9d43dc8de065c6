"""The played Messenger and Instagram as the commands use them: implements `adapters.port.StandIn`."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from adapters.port import Play
from adapters.simulators.messaging.graph import MessagingAccount
from adapters.simulators.messaging.platform import ACCOUNT_FIELDS, MessagingSimulator
from adapters.simulators.playing.standing import access_token, accounts_of, digits, making_of

_FIRST: Final = {"facebook": 610_000_000_000_000, "instagram": 17_841_400_000_000_000}


class MessagingStandIn:
    def __init__(self, platform: str) -> None:
        self._platform = platform
        self._account = ACCOUNT_FIELDS[platform]

    def new_keys(self) -> dict[str, str]:
        return {
            "app_secret": secrets.token_hex(16),
            "verify_token": secrets.token_urlsafe(18),
            self._account: digits(15),
            "access_token": access_token(),
        }

    def demo_keys(self) -> dict[str, str]:
        return {
            "app_secret": f"simulated-{self._platform}-secret",
            "verify_token": f"simulated-{self._platform}-verify-token",
            self._account: str(_FIRST[self._platform]),
            "access_token": f"SIMULATED-{self._platform.upper()}-TOKEN",
        }

    def simulator(self, play: Play) -> MessagingSimulator:
        accounts = accounts_of(play, MessagingAccount, self._account)
        return MessagingSimulator(self._platform, accounts, **making_of(play))

    def example(self) -> Mapping[str, Any]:
        return {"from": "7100000000000011", "text": "Is this in stock?"}
