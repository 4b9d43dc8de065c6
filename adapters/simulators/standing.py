"""The played WhatsApp as the commands use it: implements `adapters.port.StandIn`."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from adapters.port import Play
from adapters.simulators.accounts import WhatsAppAccount, demo_account
from adapters.simulators.settings import Settings
from adapters.simulators.whatsapp import Simulator

KEYS: Final = ("app_secret", "verify_token", "phone_number_id", "waba_id", "access_token")

_DEMO: Final = Settings(
    duplicate_probability=0.05, late_probability=0.03, batch_probability=0.25, status_disorder_probability=0.1
)
"""The bad habits that the real platform has every day, except failed sends: each reply must arrive."""

HABITS: Final[Mapping[str, Settings]] = {
    "calm": Settings(),
    "demo": _DEMO,
    "open": Settings(strangers_taken=True),
    "rough": Settings().rough(),
}


class WhatsAppStandIn:
    def new_keys(self) -> dict[str, str]:
        return {
            "app_secret": secrets.token_hex(16),
            "verify_token": secrets.token_urlsafe(18),
            "phone_number_id": digits(15),
            "waba_id": digits(15),
            "access_token": "SIM" + secrets.token_urlsafe(48),
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
        return Simulator(accounts, seed=play.seed, settings=HABITS[play.habits], ledger=play.ledger)

    def example(self) -> Mapping[str, Any]:
        return {"from": "15550100123", "text": "Is this in stock?"}


def digits(count: int) -> str:
    """A number of so many digits, as platforms' ids are."""
    return str(10 ** (count - 1) + secrets.randbelow(9 * 10 ** (count - 1)))
