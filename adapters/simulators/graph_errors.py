"""The platform's error codes and the body in which the Graph API reports them.

Codes and classes are those of the WhatsApp sheet, section 6; sentences are ours where the platform's
change, since clients may branch on the code only.
"""

from typing import Any

import msgspec

from adapters.simulators.http import Response
from adapters.simulators.playing.calls import Refusal

DOCUMENTATION_URL = "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/"

TITLES: dict[int, tuple[int, str]] = {
    0: (401, "Unable to authenticate the app user"),
    2: (503, "Service temporarily unavailable"),
    4: (400, "Application request limit reached"),
    10: (403, "Permission is either not granted or has been removed"),
    33: (400, "The business phone number has been deleted"),
    100: (400, "Invalid parameter"),
    190: (401, "Error validating access token"),
    368: (403, "Temporarily blocked for policies violations"),
    80007: (400, "Rate limit issues"),
    130429: (429, "Rate limit hit"),
    130472: (400, "User's number is part of an experiment"),
    130497: (403, "Business account is restricted from messaging users in this country"),
    131000: (500, "Something went wrong"),
    131005: (403, "Access denied"),
    131008: (400, "Required parameter is missing"),
    131009: (400, "Parameter value is not valid"),
    131016: (503, "Service unavailable"),
    131021: (400, "Recipient cannot be sender"),
    131026: (400, "Message undeliverable"),
    131030: (400, "Recipient phone number not in allowed list"),
    131031: (403, "Business Account locked"),
    131042: (400, "Business eligibility payment issue"),
    131045: (500, "Incorrect certificate"),
    131047: (400, "Re-engagement message"),
    131048: (400, "Spam rate limit hit"),
    131049: (400, "Meta chose not to deliver"),
    131050: (400, "User has stopped marketing messages"),
    131051: (400, "Unsupported message type"),
    131052: (400, "Media download error"),
    131053: (400, "Media upload error"),
    131056: (400, "(Business Account, Consumer Account) pair rate limit hit"),
    131057: (500, "Account in maintenance mode"),
    132000: (400, "Template parameter count mismatch"),
    132001: (404, "Template does not exist"),
    132012: (400, "Template parameter format mismatch"),
    132015: (400, "Template is paused"),
    132016: (400, "Template is disabled"),
    135000: (400, "Generic user error"),
}
"""code -> (HTTP status, title)."""


class GraphError(Refusal):
    """A Graph call is refused; `response()` is what the client sees."""

    @property
    def title(self) -> str:
        return TITLES.get(self.code, (400, "Error"))[1]

    def response(self, trace: str, *, retry_after_seconds: float | None = None) -> Response:
        """The answer of section 6.2; `trace` becomes `fbtrace_id`."""
        error: dict[str, Any] = {
            "message": f"(#{self.code}) {self.title}",
            "type": "OAuthException",
            "code": self.code,
            "error_data": {"messaging_product": "whatsapp", "details": self.message},
            "fbtrace_id": trace,
        }
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        headers = {} if retry_after_seconds is None else {"Retry-After": f"{retry_after_seconds:g}"}
        status = self.status or TITLES.get(self.code, (400, ""))[0]
        return Response(status, msgspec.json.encode({"error": error}), headers=headers)


def webhook_error(code: int, details: str) -> dict[str, Any]:
    """The error object inside webhooks (section 4.8)."""
    title = TITLES.get(code, (400, "Error"))[1]
    return {
        "code": code,
        "title": title,
        "message": title,
        "error_data": {"details": details},
        "href": DOCUMENTATION_URL,
    }
