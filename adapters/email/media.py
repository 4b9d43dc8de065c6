"""The files of received mail: parts of deliveries that the object store keeps.

Promises    `look_up` gives the bytes themselves, or `Declined`. A file of the web (Mailgun's stored
            messages) is an address with the account's key, which goes to Mailgun's hosts alone.
"""

import base64
from typing import Final
from urllib.parse import urlsplit

import trio

from adapters.client import Unconnected
from adapters.email import postmark
from adapters.email.forms import Form, read_form
from adapters.email.mime import part_of
from adapters.email.parts import Place, place_of
from adapters.port import Account, Declined, ErrorClass, FoundMedia
from adapters.wire import decode_json
from engine.domain.intake import delivery_key
from engine.errors import InvalidInput, NotFound, Unavailable
from engine.ports import MediaStore

OPENED_MAX: Final = 2
"""Deliveries that are open at once, of all tenants: each may take some hundred megabytes and seconds."""

_HOSTS: Final = (".mailgun.net", ".mailgun.org")
_MAIL_FIELDS: Final = ("body-mime", "email")


class EmailMedia(Unconnected):
    """Implements `adapters.port.MediaSource`; has no connections."""

    platform = "email"

    def __init__(self, store: MediaStore) -> None:
        self._store = store
        self._opened = trio.Semaphore(OPENED_MAX)

    async def look_up(
        self, source_id: str | None, source_url: str | None, account: Account
    ) -> FoundMedia | Declined:
        if source_url is not None:
            return FoundMedia(url=source_url, headers=_authorization(source_url, account))
        place = place_of(source_id or "")
        if place is None:
            return _gone("The mail does not say where the file is.")
        async with self._opened:
            try:
                delivered = await self._store.read(delivery_key(account.tenant_id, place.digest))
            except NotFound:
                return _gone("The mail that the file came in is no longer kept.")
            except Unavailable as error:
                return Declined(
                    error_class=ErrorClass.TRANSIENT, platform_code="store_unavailable", message=error.message
                )
            # Megabytes of base64: not in the loop's time.
            content = await trio.to_thread.run_sync(_extract, delivered, place)
            del delivered
        return _gone("The file is not in the mail.") if content is None else FoundMedia(content=content)


def _extract(delivered: bytes, place: Place) -> bytes | None:
    try:
        match place.shape:
            case "mime":
                return _part(delivered, place)
            case "form":
                upload = read_form(delivered).files.get(place.where)
                return upload.content if upload is not None else None
            case "form-mime":
                return _part(_mail_in(read_form(delivered)), place)
            case "postmark" if place.where.isdecimal():
                found = postmark.attachments(decode_json(delivered))
                return postmark.content_of(found[int(place.where)])
            case "postmark-mime":
                return _part(decode_json(delivered)["RawEmail"].encode("utf-8", "replace"), place)
            case _:
                return None
    except (InvalidInput, LookupError, TypeError, AttributeError):
        return None


def _part(raw: bytes, place: Place) -> bytes | None:
    return part_of(raw, int(place.where)) if place.where.isdecimal() else None


def _mail_in(form: Form) -> bytes:
    return next((form.fields[name] for name in _MAIL_FIELDS if name in form.fields), b"")


def _authorization(url: str, account: Account) -> dict[str, str]:
    key = account.credentials.get("mailgun_api_key")
    address = urlsplit(url)
    if not key or address.scheme != "https" or not (address.hostname or "").endswith(_HOSTS):
        return {}
    return {"Authorization": f"Basic {base64.b64encode(f'api:{key}'.encode()).decode('ascii')}"}


def _gone(sentence: str) -> Declined:
    return Declined(error_class=ErrorClass.BAD_REQUEST, platform_code="not_found", message=sentence)
