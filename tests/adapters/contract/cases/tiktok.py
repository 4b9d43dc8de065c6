"""TikTok's deliveries, of one event each, and the codes of the sheet's section 6."""

import hashlib
import hmac
import time

from adapters.port import ErrorClass
from adapters.tiktok.receiver import TikTokReceiver, message_of
from engine.domain.inbound import InboundEvent
from tests.adapters.contract.case import Case

_TABLE = {
    ErrorClass.AUTH: "40001 40003 40105",
    ErrorClass.RATE_ACCOUNT: "40064 40100",
    ErrorClass.TRANSIENT: "50000 50001 50002 51000 51999",
    ErrorClass.RECIPIENT: "40004",
    ErrorClass.BAD_REQUEST: "40002 40000 49999 52000",
}


def sign(body: bytes, secret: str, at: int | None = None) -> dict[str, str]:
    moment = int(time.time()) if at is None else at
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return {"tiktok-signature": f"t={moment},s={digest}"}


def receiver_then(header: str) -> TikTokReceiver:
    """One whose clock stands at the time of a signature."""
    moment = int(header.partition(",")[0].removeprefix("t="))
    return TikTokReceiver(clock=lambda: moment)


def read() -> list[InboundEvent]:
    """A message of somebody of whom webhooks tell nothing, as the lists have it."""
    listed = {
        "message_id": "m3Ss4gE+0900/x==",
        "conversation_id": "c0NvErSaTiOn+eu/Cd0002==",
        "sender": "anna.liest",
        "recipient": "kitab_shop",
        "timestamp": 1_764_000_100_000,
        "from_user": {"id": "5f0d2a9e-2b7c-4c11-9d10-7a1e5c0b9f02", "role": "PERSONAL_ACCOUNT"},
        "to_user": {"id": "-000Shop", "role": "BUSINESS_ACCOUNT"},
        "message_type": "TEXT",
        "text": {"body": "Gibt es das in Blau?"},
    }
    return [message_of(listed, "-000Shop")]


CASE = Case(
    count=lambda body: 1,
    sign=sign,
    secret="client_secret",
    secret_before="client_secret_previous",
    samples="tiktok",
    codes={code: error_class for error_class, codes in _TABLE.items() for code in codes.split()},
    expired={"code": 40105},
    throttled={"code": 40100, "status": 429},
    read=read,
    unsupported=frozenset({"im_receive_msg_other"}),
    receiver_then=receiver_then,
)
