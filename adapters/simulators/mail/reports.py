"""A report that a mail could not be delivered, as mail servers write it (RFC 3464)."""

from email import message_from_string
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final

DEAD: Final = "550 5.1.1 The mailbox does not exist"
FULL: Final = "552 5.2.2 The mailbox is full"
"""How mail to somebody fails who has a mailbox: they write from it."""
_REPORT: Final = """\
From: Mail Delivery System <mailer-daemon@relay.example>
To: {to}
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
Message-ID: <dsn.{message_id}>
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="report"

--report
Content-Type: text/plain; charset=us-ascii

Your message could not be delivered.

--report
Content-Type: message/delivery-status

Reporting-MTA: dns; relay.example

Final-Recipient: rfc822; {recipient}
Action: failed
Status: {code}
Diagnostic-Code: smtp; {reply}

--report
Content-Type: text/rfc822-headers

Message-ID: <{message_id}>
To: {recipient}

--report--
"""


def failure_report(to: str, message_id: str, recipient: str, reply: str = DEAD) -> EmailMessage:
    """`reply`: what the recipient's server said, with an enhanced code."""
    code = reply.split()[1]
    text = _REPORT.format(to=to, message_id=message_id, recipient=recipient, code=code, reply=reply)
    return message_from_string(text, _class=EmailMessage, policy=SMTP)
