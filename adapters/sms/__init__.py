"""SMS and MMS through Twilio. `ADAPTER` is what the registry takes.

describing  what the platform can do and what an account is made of
receiver    form posts into events                 signing   whose token signed the address and the form
forms       the strict reading of forms            optout    STOP, START, HELP and their kin
sending     sends into calls, answers into results composing parameters of messages, and what does not fit
senders     kinds of senders, and their pace       segments  how many parts a text has
errors      what codes mean                        media     files that customers send
account     does it work?
"""

from typing import TYPE_CHECKING

from adapters.port import Account, Adapter, Checked, ErrorClass, StandIn, Tools
from adapters.sms.account import check_account
from adapters.sms.describing import PLATFORM
from adapters.sms.errors import classify
from adapters.sms.media import TwilioMedia
from adapters.sms.receiver import SmsReceiver
from adapters.sms.sending import SmsSender

if TYPE_CHECKING:
    from adapters.port import OpenMediaSource, OpenSender
    from engine.ports import Receiver


class Sms(Adapter):
    """Implements `adapters.port.Adapter`."""

    platform = PLATFORM

    def receiver(self) -> "Receiver":
        return SmsReceiver()

    def sender(self, tools: Tools) -> "OpenSender":
        return SmsSender(tools)

    def media_source(self, tools: Tools) -> "OpenMediaSource":
        return TwilioMedia()

    async def check(self, account: Account, tools: Tools) -> Checked:
        return await check_account(account, tools.guard)

    def classify(self, code: str) -> ErrorClass:
        return classify(code)[0]

    def stand_in(self) -> StandIn:
        # Imported here: a server that talks to the real platform plays none.
        from adapters.simulators.sms.standing import SmsStandIn

        return SmsStandIn()


ADAPTER = Sms()
