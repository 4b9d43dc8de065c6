"""Files to and from TikTok: uploads of pictures, and addresses of what people send.

Promises    A stored file is uploaded once for each account while the upload can be used. A failed upload sent
            no message, so it is always Declined and may be tried again.
Limits      JPG and PNG of 3 MB at most.
Source      The TikTok sheet, section 5.
"""

from typing import Final

import msgspec
from msgspec import Struct

from adapters.calling import declined, no_source, not_understood, token_problem
from adapters.client import Connected
from adapters.guard import Guard
from adapters.port import Account, Declined, ErrorClass, FoundMedia
from adapters.tiktok import limits
from adapters.tiktok.calling import UPLOAD_SECONDS_MAX, TikTokClient, api_url, token_header
from adapters.tiktok.shapes import read_source_id
from adapters.uploads import KnownUploads, read_linked, read_stored
from adapters.wire import decoded
from engine.domain.outbound import MediaRef
from engine.ports import MediaStore

_LOOK_UP_SECONDS_MAX: Final = 15.0
_LOOK_UPS_MAX: Final = 64
"""Few and short: one for each file, eight at a time for each tenant."""
_SIGNATURES: Final = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class _Uploaded(Struct):
    media_id: str


class _Address(Struct):
    download_url: str


_uploaded: Final = msgspec.json.Decoder(_Uploaded)
_address: Final = msgspec.json.Decoder(_Address)


class Uploads:
    """Media ids of pictures that the platform has from us, by account and file."""

    def __init__(self, media: MediaStore, client: TikTokClient) -> None:
        self._media = media
        self._client = client
        self._known = KnownUploads(limits.UPLOAD_LIFE_SECONDS)

    async def prepare(self, ref: MediaRef, account: Account) -> str | Declined:
        """The picture's media id, uploading it if the platform does not have it."""
        if ref.storage_key is None:
            content = await read_linked(self._client, ref.link or "", limits.IMAGE_BYTES_MAX)
            return content if isinstance(content, Declined) else await self._upload(ref, content, account)
        if (known := self._known.find(ref, account)) is not None:
            return known
        content = await read_stored(self._media, ref.storage_key)
        if isinstance(content, Declined):
            return content
        uploaded = await self._upload(ref, content, account)
        if not isinstance(uploaded, Declined):
            self._known.keep(ref, account, uploaded)
        return uploaded

    def forget(self, ref: MediaRef, account: Account, refused: Declined) -> None:
        """After a refused send that may be the upload's fault: the next attempt uploads afresh."""
        if refused.error_class is ErrorClass.BAD_REQUEST:
            self._known.forget(ref, account)

    async def _upload(self, ref: MediaRef, content: bytes, account: Account) -> str | Declined:
        if not 0 < len(content) <= limits.IMAGE_BYTES_MAX:
            sentence = f"TikTok takes pictures of 1 to {limits.IMAGE_BYTES_MAX} bytes."
            return declined(ErrorClass.BAD_REQUEST, "image_size", sentence)
        media_type = next((kind for start, kind in _SIGNATURES.items() if content.startswith(start)), None)
        if media_type is None:
            return declined(ErrorClass.BAD_REQUEST, "not_an_image", "TikTok takes JPG and PNG pictures.")
        answer = await self._client.ask_data(
            "POST",
            api_url(account, "business/message/media/upload"),
            seconds_max=UPLOAD_SECONDS_MAX,
            data={"business_id": account.external_id, "media_type": "IMAGE"},
            files={"file": (ref.filename or "picture", content, media_type)},
            headers=token_header(account),
        )
        if isinstance(answer, Declined):
            return answer
        uploaded = decoded(_uploaded, answer)
        return not_understood(limits.LABEL) if uploaded is None else uploaded.media_id


class TikTokMedia(Connected[TikTokClient]):
    """Implements `adapters.port.OpenMediaSource`."""

    platform = "tiktok"

    def __init__(self, guard: Guard) -> None:
        super().__init__(TikTokClient(guard, connections_max=_LOOK_UPS_MAX, seconds_max=_LOOK_UP_SECONDS_MAX))

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
        answer = await self._client.ask_data(
            "POST",
            api_url(account, "business/message/media/download"),
            json={
                "business_id": account.external_id,
                "conversation_id": conversation_id,
                "message_id": message_id,
                "media_id": media_id,
                "media_type": kind.upper(),
            },
            headers=token_header(account),
        )
        if isinstance(answer, Declined):
            return answer
        found = decoded(_address, answer)
        if found is None:
            return not_understood(limits.LABEL)
        return FoundMedia(
            url=found.download_url, headers={"x-user": account.credentials.get("access_token", "")}
        )
