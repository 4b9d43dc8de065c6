"""The played WhatsApp as the commands use it: implements `adapters.port.StandIn`."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from adapters.port import Play
from adapters.simulators.accounts import WhatsAppAccount, demo_account
from adapters.simulators.playing.standing import access_token, digits, making_of
from adapters.simulators.whatsapp import Simulator

KEYS: Final = ("app_secret", "verify_token", "phone_number_id", "waba_id", "access_token")


class WhatsAppStandIn:
    def new_keys(self) -> dict[str, str]:
        return {
            "app_secret": secrets.token_hex(16),
            "verify_token": secrets.token_urlsafe(18),
            "phone_number_id": digits(15),
            "waba_id": digits(15),
            "access_token": access_token(),
        }

    def demo_keys(self) -> dict[str, str]:
        account = demo_account()
        return {name: getattr(account, name) for name in KEYS}

    def simulator(self, play: Play) -> Simulator:
        # The number shown is one for fiction (NANPA's 555-01XX).
        accounts = [
            WhatsAppAccount(**{name: keys[name] for name in KEYS}, display_phone_number=f"1555010{number:04}")
            for number, keys in enumerate(play.accounts)
        ]
        return Simulator(accounts, **making_of(play))

    def example(self) -> Mapping[str, Any]:
        return {"from": "15550100123", "text": "Is this in stock?"}
