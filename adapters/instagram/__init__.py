"""Instagram. `ADAPTER` is what the registry takes; what it shares with its sister is in `adapters/meta`."""

from typing import TYPE_CHECKING

from adapters.instagram.describing import DIALECT, PLATFORM
from adapters.instagram.renewing import renew_token
from adapters.meta.account import check_account, read_profile
from adapters.meta.errors import classify
from adapters.meta.media import AddressedMedia
from adapters.meta.messaging import MessagingReceiver
from adapters.meta.sending import MessagingSender
from adapters.port import (
    Account,
    Adapter,
    Checked,
    Declined,
    ErrorClass,
    Profile,
    Renewed,
    StandIn,
    Tools,
)

if TYPE_CHECKING:
    from adapters.port import OpenMediaSource, OpenSender
    from engine.ports import Receiver


class Instagram(Adapter):
    """Implements `adapters.port.Adapter`."""

    platform = PLATFORM

    def receiver(self) -> "Receiver":
        return MessagingReceiver(
            PLATFORM.name, PLATFORM.aliases, webhook_object="instagram", echoes_say_whose=False
        )

    def sender(self, tools: Tools) -> "OpenSender":
        return MessagingSender(DIALECT, tools)

    def media_source(self, tools: Tools) -> "OpenMediaSource":
        return AddressedMedia(PLATFORM.name)

    async def check(self, account: Account, tools: Tools) -> Checked:
        if account.settings.get("page_id"):
            return await check_account(
                DIALECT, account, tools.guard, node=DIALECT.node_of(account), fields="id,name", id_field="id"
            )
        return await check_account(
            DIALECT, account, tools.guard, node="me", fields="user_id,username", id_field="user_id"
        )

    async def renew(self, account: Account, tools: Tools) -> Renewed | Declined | None:
        return await renew_token(account, tools.guard)

    async def profile(self, key: str, account: Account, tools: Tools) -> Profile | None:
        return await read_profile(DIALECT, account, tools.guard, key, "name,username,profile_pic")

    def classify(self, code: str) -> ErrorClass:
        return classify(code)[0]

    def stand_in(self) -> StandIn:
        # Imported here: a server that talks to the real platform plays none.
        from adapters.simulators.messaging.standing import MessagingStandIn

        return MessagingStandIn(PLATFORM.name)


ADAPTER = Instagram()
