"""Google's two shapes: one event in each delivery of Business Messages, save receipts; one in each push."""

import base64
import hashlib
import hmac
import json

from adapters.google_business.reviews import deleted, events_of
from adapters.port import ErrorClass
from engine.domain.inbound import InboundEvent
from tests.adapters.contract.case import Case

_MEMBERS = (
    "message",
    "suggestionResponse",
    "userStatus",
    "receipts",
    "authenticationResponse",
    "surveyResponse",
)

_TABLE = {
    ErrorClass.AUTH: "UNAUTHENTICATED PERMISSION_DENIED invalid_grant invalid_client",
    ErrorClass.RECIPIENT: "NOT_FOUND",
    ErrorClass.RATE_ACCOUNT: "RESOURCE_EXHAUSTED",
    ErrorClass.TRANSIENT: "INTERNAL UNAVAILABLE",
    ErrorClass.BAD_REQUEST: "INVALID_ARGUMENT",
}


def count(body: bytes) -> int:
    delivery = json.loads(body)
    if "subscription" in delivery:
        return 1
    found = 0
    for name in _MEMBERS:
        about = delivery.get(name)
        if name == "receipts" and about is not None:
            found += len(about["receipts"]) or 1
        else:
            found += about is not None
    return found or 1


def sign(body: bytes, secret: str) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha512).digest()
    return {"x-goog-signature": base64.b64encode(digest).decode()}


def foreign(name: str) -> bool:
    """A handshake, claims of a token, and an answer of the API."""
    return name in (
        "business_messages_verification_handshake",
        "oidc_claims_of_push_token",
        "review_resource",
    )


def read() -> list[InboundEvent]:
    """A review that was changed, one that was answered, and one that is gone."""
    review = {
        "name": "accounts/1/locations/2/reviews/r1",
        "reviewer": {"displayName": "Huda Salem"},
        "starRating": "TWO",
        "comment": "It came late.",
        "createTime": "2024-03-05T08:00:00Z",
        "updateTime": "2024-03-05T09:00:00.5Z",
    }
    answered = {**review, "reviewReply": {"comment": "We are sorry.", "updateTime": "2024-03-05T10:00:00Z"}}
    return [*events_of(review, "reviews/r1"), *events_of(answered, "reviews/r1"), deleted("reviews/r1", 1)]


CASE = Case(
    count=count,
    sign=sign,
    read=read,
    secret="partner_key",
    secret_before="client_token",
    samples="google_business",
    expired={"code": 401},
    throttled={"code": 429},
    codes={code: error_class for error_class, codes in _TABLE.items() for code in codes.split()},
    foreign=foreign,
)
