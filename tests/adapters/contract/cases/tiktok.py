"""TikTok's deliveries, of one event each, and the codes of the sheet's section 6."""

import hashlib
import hmac
import time

from adapters.port import ErrorClass
from adapters.tiktok.receiver import TikTokReceiver
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


CASE = Case(
    count=lambda body: 1,
    sign=sign,
    secret="client_secret",
    secret_before="client_secret_previous",
    samples="tiktok",
    codes={code: error_class for error_class, codes in _TABLE.items() for code in codes.split()},
    expired={"code": 40105},
    throttled={"code": 40100, "status": 429},
    unsupported=frozenset({"im_receive_msg_other"}),
    receiver_then=receiver_then,
)
