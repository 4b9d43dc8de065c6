"""The played mail world as the commands use it: implements `adapters.port.StandIn`."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from adapters.port import Play
from adapters.simulators.mail.platform import MailSimulator
from adapters.simulators.mail.service import MailAccount
from adapters.simulators.playing.standing import accounts_of, making_of

_OTHERS: Final = {"sendgrid_api_key": "SG.simulated", "postmark_server_token": "simulated-server-token"}
"""So that the account's secret address takes what the other two services post as well; Mailgun is played."""


class EmailStandIn:
    def new_keys(self) -> dict[str, str]:
        return {
            "address": f"support@shop-{secrets.token_hex(4)}.example",
            "reply_secret": secrets.token_urlsafe(32),
            "mailgun_signing_key": secrets.token_hex(16),
            "mailgun_api_key": f"key-{secrets.token_hex(16)}",
            **_OTHERS,
        }

    def demo_keys(self) -> dict[str, str]:
        return {
            "address": "support@shop.example",
            "reply_secret": "simulated-reply-secret",
            "mailgun_signing_key": "simulated-signing-key",
            "mailgun_api_key": "key-simulated",
            **_OTHERS,
        }

    def simulator(self, play: Play) -> MailSimulator:
        return MailSimulator(accounts_of(play, MailAccount, "address"), **making_of(play))

    def example(self) -> Mapping[str, Any]:
        return {"from": "amelia.walker@mail.example", "text": "Is this in stock?"}
