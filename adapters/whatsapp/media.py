"""Files to and from the platform: uploads for sends, addresses for downloads.

Promises    A stored file is uploaded once for each account while the upload can be used; a failed or
            unanswered upload sent no message, so it is always Declined and may be tried again.
Limits      The sizes of the sheet's section 5.4, checked before a byte goes out.
Source      The WhatsApp sheet, section 5.4.
"""

from typing import Final

import msgspec
from msgspec import Struct

from adapters.calling import declined, no_source, not_understood, token_problem
from adapters.client import Connected, PlatformClient
from adapters.guard import Guard
from adapters.meta.graph import bearer, graph_url
from adapters.port import Account, Declined, ErrorClass, FoundMedia
from adapters.uploads import KnownUploads, read_stored
from adapters.whatsapp import limits
from adapters.whatsapp.errors import read_failure
from adapters.wire import decoded
from engine.domain.outbound import MediaRef
from engine.ports import MediaStore

_UPLOAD_SECONDS_MAX: Final = 120.0
"""100 MB at 1 MB/s."""
_LOOK_UP_SECONDS_MAX: Final = 15.0
_LOOK_UPS_MAX: Final = 64
"""Few and short: one for each file, eight at a time for each tenant."""

_MEDIA_REFUSED: Final = frozenset({"131052", "131053", "100", "131009"})
"""Codes that may mean that an upload is gone or not acceptable: the next attempt uploads afresh."""


class _UploadBody(Struct):
    id: str


class _LookUpBody(Struct):
    url: str
    mime_type: str | None = None
    sha256: str | None = None
    file_size: int | str | None = None

    @property
    def size(self) -> int | None:
        """None where it is no number: the download is bounded anyway."""
        given = str(self.file_size)
        return int(given) if given.isascii() and given.isdigit() and len(given) <= 15 else None


_upload_body: Final = msgspec.json.Decoder(_UploadBody)
_look_up_body: Final = msgspec.json.Decoder(_LookUpBody)


class Uploads:
    """Media ids of files that the platform has from us, by account and file."""

    def __init__(self, media: MediaStore, client: PlatformClient) -> None:
        self._media = media
        self._client = client
        self._known = KnownUploads(limits.UPLOAD_LIFE_SECONDS)

    async def prepare(self, ref: MediaRef, account: Account) -> dict[str, str] | Declined:
        """{"link"} or {"id"}, uploading the file if the platform does not have it."""
        if ref.storage_key is None:
            return {"link": ref.link or ""}
        if (known := self._known.find(ref, account)) is not None:
            return {"id": known}
        uploaded = await self._upload(ref, ref.storage_key, account)
        if isinstance(uploaded, Declined):
            return uploaded
        self._known.keep(ref, account, uploaded)
        return {"id": uploaded}

    def forget(self, ref: MediaRef, account: Account, refused: Declined) -> None:
        """After a refused send that may be the upload's fault."""
        if refused.platform_code in _MEDIA_REFUSED:
            self._known.forget(ref, account)

    async def _upload(self, ref: MediaRef, storage_key: str, account: Account) -> str | Declined:
        content = await read_stored(self._media, storage_key)
        if isinstance(content, Declined):
            return content
        most = limits.UPLOAD_BYTES_MAX[ref.kind]
        if not 0 < len(content) <= most:
            sentence = f"The file has {len(content)} bytes; WhatsApp takes 1 to {most} for this kind."
            return declined(ErrorClass.BAD_REQUEST, "131053", sentence)
        media_type = ref.media_type or "application/octet-stream"
        answer = await self._client.ask(
            "POST",
            graph_url(account, account.external_id, "media"),
            data={"messaging_product": "whatsapp", "type": media_type},
            files={"file": (ref.filename or "file", content, media_type)},
            headers=bearer(account),
            seconds_max=_UPLOAD_SECONDS_MAX,
        )
        if isinstance(answer, Declined):
            return answer
        uploaded = decoded(_upload_body, answer.content)
        return not_understood(limits.LABEL) if uploaded is None else uploaded.id


class WhatsAppMedia(Connected[PlatformClient]):
    """Implements `adapters.port.OpenMediaSource`."""

    platform = "whatsapp"

    def __init__(self, guard: Guard) -> None:
        super().__init__(
            PlatformClient(
                guard,
                limits.LABEL,
                read_failure,
                connections_max=_LOOK_UPS_MAX,
                seconds_max=_LOOK_UP_SECONDS_MAX,
            )
        )

    async def look_up(
        self, source_id: str | None, source_url: str | None, account: Account
    ) -> FoundMedia | Declined:
        """A fresh address, which lives five minutes; the webhook's own address serves where there is no
        id."""
        if (problem := token_problem(account)) is not None:
            return problem
        if source_id is None:
            if source_url is None:
                return no_source()
            return FoundMedia(url=source_url, headers=bearer(account))
        answer = await self._client.ask(
            "GET",
            graph_url(account, source_id),
            params={"phone_number_id": account.external_id},
            headers=bearer(account),
        )
        if isinstance(answer, Declined):
            return answer
        found = decoded(_look_up_body, answer.content)
        if found is None:
            return not_understood(limits.LABEL)
        digest = found.sha256.lower() if found.sha256 is not None and _is_hex(found.sha256) else None
        return FoundMedia(
            url=found.url,
            headers=bearer(account),
            media_type=found.mime_type,
            sha256=digest,
            size=found.size,
        )


def _is_hex(digest: str) -> bool:
    """Look-ups write digests in hex, webhooks in base64."""
    return len(digest) == 64 and all(letter in "0123456789abcdefABCDEF" for letter in digest)
