"""Twilio: forms of one item each, signed with the address; the codes of the sheet's section 7."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from urllib.parse import parse_qsl

from adapters.port import ErrorClass
from engine.domain.outbound import SendTemplate
from tests.adapters.contract.case import Case

HOST = "hooks.example"


def count(body: bytes) -> int:
    if body[:1] == b"[":
        return len(json.loads(body))
    return 1


def signed(body: bytes) -> bytes | None:
    """Names and values, sorted and put together without separators: a form may be written in several ways."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        return None
    return "".join(name + value for name, value in sorted(set(pairs))).encode()


def sign(body: bytes, secret: str) -> Mapping[str, str]:
    """As the contract's requests are addressed; a form that cannot be read is signed as nothing."""
    text = f"https://{HOST}/api/webhooks/sms".encode() + (signed(body) or b"")
    digest = hmac.new(secret.encode(), text, hashlib.sha1).digest()
    return {"host": HOST, "x-twilio-signature": base64.b64encode(digest).decode()}


_CLASSES = {
    ErrorClass.AUTH: (20003, 20404),
    ErrorClass.RATE_ACCOUNT: (20429, 21611, 63017, 63018, 30001),
    ErrorClass.TRANSIENT: (30017, 30008),
    ErrorClass.RECIPIENT: (21211, 21214, 21614, 30003, 30005, 30006, 63024, 21612, 30004, 63032),
    ErrorClass.OPTED_OUT: (21610,),
    ErrorClass.ACCOUNT: (21408, 21606, 30002, 30034, 63038),
    ErrorClass.BAD_REQUEST: (30007, 21602, 21617),
    ErrorClass.WAIT_LONG: (63016,),
}

CASE = Case(
    count=count,
    sign=sign,
    secret="auth_token",
    secret_before="auth_token_previous",
    expired={"code": 20003},
    throttled={"code": 20429},
    token="auth_token",
    samples="sms_twilio",
    codes={str(code): error_class for error_class, codes in _CLASSES.items() for code in codes},
    foreign=lambda name: name.startswith("send_"),
    signed=signed,
    sends={"template": SendTemplate(name="HX" + "0a" * 16, language="en")},
)
