"""E-mail. `ADAPTER` is what the registry takes.

describing   what mail can do and what an account is made of
receiver     webhooks into events: shapes (whose is it?), signing (is it theirs?), mailgun, sendgrid, postmark
reading      a mail into an event: mime, words, html, quoting, automatic, reports
polling      mail fetched from a mailbox: mailbox, structure, excerpts
listening    the built-in mail server: judging (SPF, DKIM, DMARC), lookups
recognising  what only the account can know: whose reply tokens are real
threading    message ids, reply tokens, references
media, parts the files of received mail, found again in what was delivered
sending      sends into mails: composing, submitting (SMTP: client, keeping), posting (services), dkim
errors       what replies and answers mean
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapters.email.account import check_account
from adapters.email.describing import PLATFORM
from adapters.email.errors import classify
from adapters.email.listening import LISTENER, MailListener
from adapters.email.media import EmailMedia
from adapters.email.polling import MailboxPoller, has_mailbox
from adapters.email.receiver import EmailReceiver
from adapters.email.sending import EmailSender
from adapters.port import Account, Adapter, Checked, ErrorClass, StandIn, Tools
from adapters.service import AccountService, Service, ServiceTools

if TYPE_CHECKING:
    from adapters.port import OpenMediaSource, OpenSender
    from engine.ports import Receiver


class Email(Adapter):
    """Implements `adapters.port.Adapter`."""

    platform = PLATFORM
    listeners = (LISTENER,)

    def receiver(self) -> "Receiver":
        return EmailReceiver()

    def sender(self, tools: Tools) -> "OpenSender":
        return EmailSender(tools)

    def media_source(self, tools: Tools) -> "OpenMediaSource":
        return EmailMedia(tools.media)

    async def check(self, account: Account, tools: Tools) -> Checked:
        return await check_account(account, tools.guard)

    def services(self, tools: ServiceTools) -> Sequence[Service | AccountService]:
        return (
            Service(name="email.smtp", run=MailListener(tools).run),
            AccountService(name="email.imap", wants=has_mailbox, run=MailboxPoller(tools).run),
        )

    def classify(self, code: str) -> ErrorClass:
        return classify(code)

    def stand_in(self) -> StandIn:
        # Imported here: a server that talks to real mail plays none.
        from adapters.simulators.mail.standing import EmailStandIn

        return EmailStandIn()


ADAPTER = Email()
