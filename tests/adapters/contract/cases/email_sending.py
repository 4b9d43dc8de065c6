"""E-mail's error codes, and how the played mail service says that a key ended or that it is too much."""

from typing import Any

from adapters.port import ErrorClass

_TABLE = {
    ErrorClass.AUTH: "530 534 535 538 5.7.0 5.7.8 5.7.9 5.7.57 mailgun_http_401 sendgrid_http_401 "
    "sendgrid_http_403 postmark_http_401 postmark_10",
    ErrorClass.TRANSIENT: "421 450 451 452 454 455 4.3.1 4.4.1 4.4.7 4.7.1 4.2.2 mailgun_http_500 "
    "mailgun_http_503 sendgrid_http_503 postmark_http_500 postmark_http_503",
    ErrorClass.RATE_ACCOUNT: "4.7.28 mailgun_http_429 sendgrid_http_429 postmark_http_429",
    ErrorClass.RATE_PAIR: "4.2.1",
    ErrorClass.RECIPIENT: "521 550 551 553 556 5.2.2 5.4.1 5.4.7",
    ErrorClass.UNDELIVERABLE: "5.1.1 5.1.2 5.1.10 5.2.1 postmark_406",
    ErrorClass.BAD_REQUEST: "500 501 502 503 504 552 555 5.2.3 5.3.4 5.5.2 5.6.0 mailgun_http_400 "
    "mailgun_http_413 sendgrid_http_400 sendgrid_http_413 postmark_300",
    ErrorClass.ACCOUNT: "554 5.1.8 5.7.1 5.7.26 mailgun_http_402 mailgun_http_403 mailgun_http_404 "
    "postmark_405",
}
CODES = {code: error_class for error_class, codes in _TABLE.items() for code in codes.split()}
EXPIRED: dict[str, Any] = {"code": 401, "status": 401}
THROTTLED: dict[str, Any] = {"code": 429, "status": 429}
TOKEN = "mailgun_api_key"
