"""The played SMS as the commands use it: implements `adapters.port.StandIn`."""

import secrets
from collections.abc import Mapping
from typing import Any

from adapters.port import Play
from adapters.simulators.playing.standing import accounts_of, making_of
from adapters.simulators.sms.api import SmsAccount
from adapters.simulators.sms.platform import SmsSimulator


class SmsStandIn:
    def new_keys(self) -> dict[str, str]:
        # A toll-free number for fiction: at its three segments a second one can watch.
        return {
            "sender": f"+1800{200 + secrets.randbelow(800)}01{secrets.randbelow(100):02d}",
            "account_sid": f"AC{secrets.token_hex(16)}",
            "auth_token": secrets.token_hex(16),
        }

    def demo_keys(self) -> dict[str, str]:
        return {
            "sender": "+18005550100",
            "account_sid": "AC" + "5e" * 16,
            "auth_token": "simulated-sms-token",
        }

    def simulator(self, play: Play) -> SmsSimulator:
        return SmsSimulator(accounts_of(play, SmsAccount, "sender"), **making_of(play))

    def example(self) -> Mapping[str, Any]:
        return {"from": "14155550123", "text": "Is this in stock?"}
