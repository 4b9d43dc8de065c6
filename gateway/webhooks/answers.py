"""Answers to webhooks, as whoever sends them takes them. What is said often is made once."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from engine.ports import Acknowledgement
from gateway import envelope
from gateway.in_flight import over_share, too_many
from gateway.problems import failure_of

_JSON: Final = {"Content-Type": envelope.JSON_TYPE}


class Answer(Struct, frozen=True, kw_only=True):
    status: int
    headers: Mapping[str, str]
    body: bytes


def acknowledged(how: Acknowledgement) -> Answer:
    """What a platform that does not take our JSON hears of a delivery that was taken."""
    return Answer(status=how.status, headers={"Content-Type": how.content_type}, body=how.body)


def failed(failure: envelope.Failure) -> Answer:
    return Answer(
        status=failure.status, headers={**_JSON, **failure.headers}, body=envelope.failure_body(failure)
    )


def traced(answer: Answer, trace: str) -> Answer:
    """The answer with the request's id."""
    return Answer(status=answer.status, headers={**answer.headers, "X-Request-Id": trace}, body=answer.body)


ACCEPTED: Final = Answer(
    status=200, headers=_JSON, body=envelope.success_body(envelope.Answer(message="Accepted"))
)
OVER_SHARE: Final = failed(failure_of(over_share()))
TOO_MANY: Final = failed(failure_of(too_many()))
