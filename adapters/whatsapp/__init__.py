"""WhatsApp: the Cloud API's numbers. `ADAPTER` is what the registry takes.

describing  what the platform can do and what an account is made of
receiver    handshake, signature, webhooks into events      payloads  their wire types
sending     sends into calls, answers into results          errors    what codes mean
composing   bodies of messages, and what does not fit       media     files both ways
account     does it work?                                   limits    the platform's numbers
"""

from typing import TYPE_CHECKING

from adapters.port import Account, Adapter, Checked, ErrorClass, StandIn, Tools
from adapters.whatsapp.account import check_account
from adapters.whatsapp.describing import PLATFORM
from adapters.whatsapp.errors import classify
from adapters.whatsapp.media import WhatsAppMedia
from adapters.whatsapp.receiver import WhatsAppReceiver
from adapters.whatsapp.sending import WhatsAppSender

if TYPE_CHECKING:
    from adapters.port import OpenMediaSource, OpenSender
    from engine.ports import Receiver


class WhatsApp(Adapter):
    """Implements `adapters.port.Adapter`."""

    platform = PLATFORM

    def receiver(self) -> "Receiver":
        return WhatsAppReceiver()

    def sender(self, tools: Tools) -> "OpenSender":
        return WhatsAppSender(tools.media, tools.guard)

    def media_source(self, tools: Tools) -> "OpenMediaSource":
        return WhatsAppMedia(tools.guard)

    async def check(self, account: Account, tools: Tools) -> Checked:
        return await check_account(account, tools.guard)

    def classify(self, code: str) -> ErrorClass:
        if not (code.isascii() and code.isdigit()):
            return ErrorClass.BAD_REQUEST
        return classify(int(code), text="unknown")[0]

    def stand_in(self) -> StandIn:
        # Imported here: a server that talks to the real platform plays none.
        from adapters.simulators.standing import WhatsAppStandIn

        return WhatsAppStandIn()


ADAPTER = WhatsApp()
