"""Files to and from TikTok: uploads of pictures, and addresses of what people send.

Promises    A stored file is uploaded once for each account while the upload can be used. A failed upload sent
            no message, so it is always Declined and may be tried again.
Limits      JPG and PNG of 3 MB at most. 10,000 uploads are remembered (2 MB); forgetting one costs another.
Source      The TikTok sheet, section 5.
"""

import time
from collections import OrderedDict
from typing import Any, Final

import httpx
import msgspec
import trio
from msgspec import Struct

from adapters.calling import NEVER_SENT, declined, never_sent, no_source, token_problem
from adapters.guard import BodyTooLarge, Guard, guarded_client
from adapters.port import Account, Declined, ErrorClass, FoundMedia, Unanswered
from adapters.tiktok import limits
from adapters.tiktok.calling import UPLOAD_SECONDS_MAX, again, api_url, call, token_header
from adapters.tiktok.shapes import read_source_id
from engine.domain.outbound import MediaRef
from engine.errors import MijraError
from engine.ports import MediaStore

_UPLOADS_MAX: Final = 10_000
_LOOK_UP_SECONDS_MAX: Final = 15.0
_SIGNATURES: Final = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class _Uploaded(Struct):
    media_id: str


class _Address(Struct):
    download_url: str


class Uploads:
    """Media ids of pictures that the platform has from us, by account and file."""

    def __init__(self, media: MediaStore, client: httpx.AsyncClient) -> None:
        self._media = media
        self._client = client
        self._known: OrderedDict[tuple[int, int, str], tuple[str, float]] = OrderedDict()

    async def prepare(self, ref: MediaRef, account: Account) -> str | Declined:
        """The picture's media id, uploading it if the platform does not have it."""
        if ref.storage_key is None:
            # Not remembered: what is behind a link may be another picture tomorrow.
            content = await self._linked(ref.link or "")
            return content if isinstance(content, Declined) else await self._upload(ref, content, account)
        key = _key(ref, account)
        known = self._known.get(key)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        content = await self._stored(ref.storage_key)
        if isinstance(content, Declined):
            return content
        uploaded = await self._upload(ref, content, account)
        if isinstance(uploaded, Declined):
            return uploaded
        self._known[key] = (uploaded, time.monotonic() + limits.UPLOAD_LIFE_SECONDS)
        if len(self._known) > _UPLOADS_MAX:
            self._known.popitem(last=False)
        return uploaded

    def forget(self, ref: MediaRef, account: Account) -> None:
        """After a refused send that may be the upload's fault: the next attempt uploads afresh."""
        self._known.pop(_key(ref, account), None)

    async def _stored(self, storage_key: str) -> bytes | Declined:
        try:
            return await self._media.read(storage_key)
        except MijraError as error:
            if error.retryable:
                sentence = "The file store cannot be reached."
                return declined(ErrorClass.UNREACHABLE, "store_unavailable", sentence)
            sentence = "The file to be sent is no longer stored."
            return declined(ErrorClass.BAD_REQUEST, "file_missing", sentence)

    async def _linked(self, link: str) -> bytes | Declined:
        """The platform fetches nothing itself, so what is behind a link is brought and uploaded."""
        try:
            with trio.fail_after(UPLOAD_SECONDS_MAX):
                answer = await self._client.get(
                    link, follow_redirects=True, extensions={"body_bytes_max": limits.IMAGE_BYTES_MAX}
                )
        except BodyTooLarge:
            return _too_large()
        except NEVER_SENT as error:
            refused = never_sent(error)
            if refused.error_class is not ErrorClass.ACCOUNT:
                return refused
            return declined(ErrorClass.BAD_REQUEST, "link_refused", "The link is not one that may be called.")
        except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
            sentence = f"The file behind the link cannot be fetched ({type(error).__name__})."
            return declined(ErrorClass.UNREACHABLE, "unreachable", sentence)
        if not answer.is_success:
            gone = 400 <= answer.status_code < 500
            return declined(
                ErrorClass.BAD_REQUEST if gone else ErrorClass.UNREACHABLE,
                f"http_{answer.status_code}",
                f"The file behind the link cannot be fetched (HTTP {answer.status_code}).",
            )
        return answer.content

    async def _upload(self, ref: MediaRef, content: bytes, account: Account) -> str | Declined:
        if not 0 < len(content) <= limits.IMAGE_BYTES_MAX:
            return _too_large()
        media_type = next((kind for start, kind in _SIGNATURES.items() if content.startswith(start)), None)
        if media_type is None:
            return declined(ErrorClass.BAD_REQUEST, "not_an_image", "TikTok takes JPG and PNG pictures.")
        answer = await call(
            self._client,
            "POST",
            api_url(account, "business/message/media/upload"),
            seconds_max=UPLOAD_SECONDS_MAX,
            data={"business_id": account.external_id, "media_type": "IMAGE"},
            files={"file": (ref.filename or "picture", content, media_type)},
            headers=token_header(account),
        )
        if not isinstance(answer, msgspec.Raw):
            return again(answer)
        try:
            return msgspec.json.decode(answer, type=_Uploaded).media_id
        except (msgspec.DecodeError, UnicodeDecodeError):
            return again(Unanswered(reason="an upload without an id"))


def _key(ref: MediaRef, account: Account) -> tuple[int, int, str]:
    return account.tenant_id, account.channel_id, ref.storage_key or ""


def _too_large() -> Declined:
    sentence = f"TikTok takes pictures of 1 to {limits.IMAGE_BYTES_MAX} bytes."
    return declined(ErrorClass.BAD_REQUEST, "image_size", sentence)


class TikTokMedia:
    """Implements `adapters.port.OpenMediaSource`."""

    platform = "tiktok"

    def __init__(self, guard: Guard) -> None:
        # Look-ups are few and short: one for each file, eight at a time for each tenant.
        self._client = guarded_client(
            guard, connections_max=64, timeout=httpx.Timeout(_LOOK_UP_SECONDS_MAX, connect=5.0)
        )

    async def __aenter__(self) -> "TikTokMedia":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def look_up(
        self, source_id: str | None, source_url: str | None, account: Account
    ) -> FoundMedia | Declined:
        """A fresh address, which lives a day and wants the token; a sticker's own, which does not."""
        if source_url is not None:
            return FoundMedia(url=source_url, headers={})
        if (problem := token_problem(account)) is not None:
            return problem
        parts = read_source_id(source_id) if source_id is not None else None
        if parts is None:
            return no_source()
        kind, conversation_id, message_id, media_id = parts
        body: dict[str, Any] = {
            "business_id": account.external_id,
            "conversation_id": conversation_id,
            "message_id": message_id,
            "media_id": media_id,
            "media_type": kind.upper(),
        }
        answer = await call(
            self._client,
            "POST",
            api_url(account, "business/message/media/download"),
            seconds_max=_LOOK_UP_SECONDS_MAX,
            json=body,
            headers=token_header(account),
        )
        if not isinstance(answer, msgspec.Raw):
            return again(answer)
        try:
            url = msgspec.json.decode(answer, type=_Address).download_url
        except (msgspec.DecodeError, UnicodeDecodeError):
            return again(Unanswered(reason="a look-up without an address"))
        return FoundMedia(url=url, headers={"x-user": account.credentials.get("access_token", "")})
