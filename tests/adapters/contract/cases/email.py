"""E-mail's items: one for each mail and account that it went to, one for each event. What is signed differs
by provider, so that signatures have tests of their own (tests/adapters/email/test_signing.py)."""

import json
import re

from tests.adapters.contract.case import Case
from tests.adapters.contract.cases.email_sending import CODES, EXPIRED, THROTTLED, TOKEN


def count(body: bytes) -> int:
    if body.lstrip()[:1] == b"[":
        return len(json.loads(body))
    envelope = re.search(rb'name="envelope"\r\n\r\n(\{.*?\})\r\n', body)
    return len(set(json.loads(envelope[1])["to"])) if envelope is not None else 1


MAILS = frozenset(
    {"auto_reply_out_of_office", "customer_reply_threaded", "dsn_delayed", "dsn_permanent_failure",
     "mailing_list_message"}
)  # fmt: skip
"""Mails as such, which come by SMTP and not by webhook."""

CASE = Case(
    count=count,
    sign=None,
    samples="email",
    codes=CODES,
    expired=EXPIRED,
    throttled=THROTTLED,
    token=TOKEN,
    foreign=lambda name: name in MAILS,
)
