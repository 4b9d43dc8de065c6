"""The played TikTok as the commands use it: implements `adapters.port.StandIn`."""

import secrets
from collections.abc import Mapping
from typing import Any

from adapters.port import Play
from adapters.simulators.playing.standing import accounts_of, digits, making_of
from adapters.simulators.tiktok.accounts import TikTokAccount
from adapters.simulators.tiktok.platform import TikTokSimulator


class TikTokStandIn:
    def new_keys(self) -> dict[str, str]:
        return {
            "open_id": f"-000{secrets.token_urlsafe(24)}",
            "client_key": digits(19),
            "client_secret": secrets.token_hex(20),
            "access_token": f"act.{secrets.token_urlsafe(32)}",
            "refresh_token": f"rft.{secrets.token_urlsafe(32)}",
        }

    def demo_keys(self) -> dict[str, str]:
        return {
            "open_id": "-000SimulatedOpenId",
            "client_key": "7000000000000000000",
            "client_secret": "simulated-tiktok-secret",
            "access_token": "SIMULATED-TIKTOK-TOKEN",
            "refresh_token": "SIMULATED-TIKTOK-REFRESH-TOKEN",
        }

    def simulator(self, play: Play) -> TikTokSimulator:
        return TikTokSimulator(accounts_of(play, TikTokAccount, "open_id"), **making_of(play))

    def example(self) -> Mapping[str, Any]:
        return {"from": "c0NvErSaTiOn+0001==", "text": "Is this in stock?"}
