"""TikTok: direct messages of business accounts. `ADAPTER` is what the registry takes.

describing  what the platform can do and what an account is made of
receiver    signature, webhooks into events             shapes   what a message says
reading     what webhooks do not say
sending     sends into calls, answers into results      errors   what codes mean
composing   bodies of messages, and what does not fit   media    files both ways
calling     calls of the Business API                   limits   the platform's numbers
account     does it work?                               tokens   new ones before the old ones end
"""

from typing import TYPE_CHECKING

from adapters.port import Account, Adapter, Checked, Declined, ErrorClass, Renewed, StandIn, Tools
from adapters.tiktok.account import check_account
from adapters.tiktok.describing import PLATFORM
from adapters.tiktok.errors import classify
from adapters.tiktok.media import TikTokMedia
from adapters.tiktok.reading import TikTokReader
from adapters.tiktok.receiver import TikTokReceiver
from adapters.tiktok.sending import TikTokSender
from adapters.tiktok.tokens import renew_tokens

if TYPE_CHECKING:
    from adapters.port import OpenMediaSource, OpenReader, OpenSender
    from engine.ports import Receiver


class TikTok(Adapter):
    """Implements `adapters.port.Adapter`."""

    platform = PLATFORM

    def receiver(self) -> "Receiver":
        return TikTokReceiver()

    def sender(self, tools: Tools) -> "OpenSender":
        return TikTokSender(tools)

    def media_source(self, tools: Tools) -> "OpenMediaSource":
        return TikTokMedia(tools.guard)

    def reader(self, tools: Tools) -> "OpenReader":
        return TikTokReader(tools.guard)

    async def check(self, account: Account, tools: Tools) -> Checked:
        return await check_account(account, tools.guard)

    async def renew(self, account: Account, tools: Tools) -> Renewed | Declined | None:
        return await renew_tokens(account, tools.guard)

    def classify(self, code: str) -> ErrorClass:
        return classify(code)[0]

    def stand_in(self) -> StandIn:
        # Imported here: a server that talks to the real platform plays none.
        from adapters.simulators.tiktok.standing import TikTokStandIn

        return TikTokStandIn()


ADAPTER = TikTok()
