"""What only the account can know of an event: which reply tokens are its own.

Promises    Pure. An event that names a message of ours with a token that holds gets that message's id; a
            token that does not hold is dropped without a trace, so that forging one gains nothing. Our own
            mail that comes back is no customer's.
"""

from typing import Final

from msgspec import structs

from adapters.email.threading import message_id_for, open_token, token_in_id
from engine.domain.inbound import AccountNotice, InboundEvent, MessageReceived, StatusChanged
from engine.ports import Endpoint

_REPLY_TOKEN: Final = "reply_token"  # noqa: S105  # a member's name


def recognise(event: InboundEvent, endpoint: Endpoint) -> InboundEvent:
    """The event as the account sees it that it came to. Every way in must call it before the intake."""
    match event:
        case MessageReceived():
            return _message(event, endpoint)
        case StatusChanged():
            return _status(event, endpoint)
        case _:
            return event


def _status(event: StatusChanged, endpoint: Endpoint) -> StatusChanged:
    """Whatever a provider calls the message, its Message-ID is what we know it by."""
    ours = int(event.callback) if event.callback is not None else None
    if ours is None:
        # SendGrid names the message by its own id, and beside it by ours.
        ids = (event.platform_id, str(event.detail.get("smtp_id") or "").strip("<> "))
        opened = (_opened(token_in_id(each), endpoint) for each in ids)
        ours = next((each for each in opened if each is not None), None)
    secret = endpoint.secrets.get("reply_secret", "")
    if ours is None or not secret:
        return event
    platform_id = message_id_for(ours, account=endpoint.external_id, secret=secret)
    return structs.replace(event, callback=str(ours), platform_id=platform_id)


def _message(event: MessageReceived, endpoint: Endpoint) -> InboundEvent:
    metadata = dict(event.metadata)
    token = metadata.pop(_REPLY_TOKEN, None)
    if _opened(token_in_id(event.platform_id), endpoint) is not None:
        return AccountNotice(kind="own_mail", at=event.at or None, raw={"message_id": event.platform_id})
    references = event.thread.references if event.thread is not None else ()
    candidates = [token if isinstance(token, str) else None]
    candidates += [token_in_id(each) for each in ((event.reply_to or ""), *reversed(references))]
    answers = next((ours for each in candidates if (ours := _opened(each, endpoint)) is not None), None)
    own = event.contact.keys[0] == endpoint.external_id
    return structs.replace(event, metadata=metadata, answers=answers, automated=event.automated and not own)


def _opened(token: str | None, endpoint: Endpoint) -> int | None:
    if token is None:
        return None
    secret = endpoint.secrets.get("reply_secret", "")
    return open_token(token, account=endpoint.external_id, secret=secret)
