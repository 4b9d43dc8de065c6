"""Files to and from the platform: uploads for sends, addresses for downloads.

Promises    A stored file is uploaded once for each account while the upload can be used; a failed or
            unanswered upload sent no message, so it is always Declined and may be tried again.
Limits      The sizes of the sheet's section 5.4, checked before a byte goes out. 10,000 upload ids are
            remembered (2 MB); forgetting one costs another upload.
Source      The WhatsApp sheet, section 5.4.
"""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import trio
from msgspec import Struct

from adapters.calling import no_source
from adapters.guard import AddressRefused, Guard, guarded_client
from adapters.port import Account, Declined, ErrorClass, FoundMedia
from adapters.whatsapp import limits
from adapters.whatsapp.errors import read_failure
from engine.domain.outbound import MediaRef
from engine.errors import MijraError
from engine.ports import MediaStore

_UPLOADS_MAX = 10_000
_UPLOAD_SECONDS_MAX = 120.0
"""100 MB at 1 MB/s."""
_LOOK_UP_SECONDS_MAX = 15.0
BOUNDED: Final[dict[str, Any]] = {"body_bytes_max": 65_536}
"""Answers of the Graph API are a few hundred bytes."""

_MEDIA_REFUSED = frozenset({"131052", "131053", "100", "131009"})
"""Codes that may mean that an upload is gone or not acceptable: the next attempt uploads afresh."""


def graph_url(account: Account, *path: str) -> str:
    """The platform's address for this account; `base_url` and `api_version` are settings of the channel."""
    base = account.settings.get("base_url") or limits.BASE_URL
    version = account.settings.get("api_version") or limits.API_VERSION
    return "/".join(
        (str(base).rstrip("/"), quote(str(version), safe=""), *(quote(part, safe="") for part in path))
    )


def bearer(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {account.credentials.get('access_token', '')}"}


def token_problem(account: Account) -> Declined | None:
    """Why the account's token cannot be sent at all; None when it can. The platform would say the same
    later."""
    token = account.credentials.get("access_token", "")
    if token and token.isascii() and token.isprintable() and " " not in token:
        return None
    return Declined(
        error_class=ErrorClass.AUTH,
        platform_code="no_token",
        message="The account has no access token that can be used. Connect it again.",
    )


class _UploadBody(Struct):
    id: str


class _LookUpBody(Struct):
    url: str
    mime_type: str | None = None
    sha256: str | None = None
    file_size: int | str | None = None


_upload_body = msgspec.json.Decoder(_UploadBody)
_look_up_body = msgspec.json.Decoder(_LookUpBody)

Answer = tuple[int, bytes, str | None]
"""status, body, Retry-After"""


async def call(
    client: httpx.AsyncClient, seconds_max: float, method: str, url: str, **request: Any
) -> Answer | Declined:
    """One call that may be repeated without harm, so every failure of the network is Declined."""
    try:
        with trio.fail_after(seconds_max):
            answer = await client.request(method, url, extensions=BOUNDED, **request)
    except (
        AddressRefused,
        httpx.UnsupportedProtocol,
        httpx.LocalProtocolError,
        httpx.InvalidURL,
        UnicodeError,
    ):
        return Declined(
            error_class=ErrorClass.ACCOUNT,
            platform_code="address_refused",
            message="The account's address is not one that may be called.",
        )
    except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
        return _trouble(f"WhatsApp cannot be reached ({type(error).__name__}).")
    return answer.status_code, answer.content, answer.headers.get("retry-after")


def _trouble(sentence: str, code: str = "unreachable") -> Declined:
    return Declined(error_class=ErrorClass.UNREACHABLE, platform_code=code, message=sentence)


def _failure(status: int, body: bytes, retry_after: str | None) -> Declined:
    result = read_failure(status, body, retry_after)
    if isinstance(result, Declined):
        return result
    return _trouble("WhatsApp's answer cannot be understood.", f"http_{status}")


class Uploads:
    """Media ids of files that the platform has from us, by account and file."""

    def __init__(
        self, media: MediaStore, client: httpx.AsyncClient, clock: Callable[[], float] = monotonic
    ) -> None:
        self._media = media
        self._client = client
        self._clock = clock
        self._known: OrderedDict[tuple[int, int, str], tuple[str, float]] = OrderedDict()

    async def prepare(self, ref: MediaRef, account: Account) -> dict[str, str] | Declined:
        """{"link"} or {"id"}, uploading the file if the platform does not have it."""
        if ref.storage_key is None:
            return {"link": ref.link or ""}
        key = (account.tenant_id, account.channel_id, ref.storage_key)
        known = self._known.get(key)
        if known is not None and known[1] > self._clock():
            self._known.move_to_end(key)
            return {"id": known[0]}
        uploaded = await self._upload(ref, ref.storage_key, account)
        if isinstance(uploaded, Declined):
            return uploaded
        self._known[key] = (uploaded, self._clock() + limits.UPLOAD_LIFE_SECONDS)
        self._known.move_to_end(key)
        if len(self._known) > _UPLOADS_MAX:
            self._known.popitem(last=False)
        return {"id": uploaded}

    def forget(self, ref: MediaRef, account: Account, declined: Declined) -> None:
        """After a refused send that may be the upload's fault."""
        if ref.storage_key is not None and declined.platform_code in _MEDIA_REFUSED:
            self._known.pop((account.tenant_id, account.channel_id, ref.storage_key), None)

    async def _upload(self, ref: MediaRef, storage_key: str, account: Account) -> str | Declined:
        try:
            content = await self._media.read(storage_key)
        except MijraError as error:
            gone = not error.retryable
            return Declined(
                error_class=ErrorClass.BAD_REQUEST if gone else ErrorClass.UNREACHABLE,
                platform_code="file_missing" if gone else "store_unavailable",
                message="The file to be sent is no longer stored."
                if gone
                else "The file store cannot be reached.",
            )
        most = limits.UPLOAD_BYTES_MAX[ref.kind]
        if not content or len(content) > most:
            return Declined(
                error_class=ErrorClass.BAD_REQUEST,
                platform_code="131053",
                message=f"The file has {len(content)} bytes; WhatsApp takes 1 to {most} for this kind.",
            )
        media_type = ref.media_type or "application/octet-stream"
        answer = await call(
            self._client,
            _UPLOAD_SECONDS_MAX,
            "POST",
            graph_url(account, account.external_id, "media"),
            data={"messaging_product": "whatsapp", "type": media_type},
            files={"file": (ref.filename or "file", content, media_type)},
            headers=bearer(account),
            timeout=httpx.Timeout(_UPLOAD_SECONDS_MAX, connect=5.0),
        )
        if isinstance(answer, Declined):
            return answer
        status, body, retry_after = answer
        if not 200 <= status < 300:
            return _failure(status, body, retry_after)
        try:
            return _upload_body.decode(body).id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _trouble("WhatsApp's answer to the upload cannot be understood.", "not_understood")


class WhatsAppMedia:
    """Implements `adapters.port.MediaSource`. Use as an async context manager."""

    platform = "whatsapp"

    def __init__(self, guard: Guard) -> None:
        # Look-ups are few and short: one for each file, eight at a time for each tenant.
        self._client = guarded_client(
            guard, connections_max=64, timeout=httpx.Timeout(_LOOK_UP_SECONDS_MAX, connect=5.0)
        )

    async def __aenter__(self) -> "WhatsAppMedia":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

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
        answer = await call(
            self._client,
            _LOOK_UP_SECONDS_MAX,
            "GET",
            graph_url(account, source_id),
            params={"phone_number_id": account.external_id},
            headers=bearer(account),
        )
        if isinstance(answer, Declined):
            return answer
        status, body, retry_after = answer
        if not 200 <= status < 300:
            return _failure(status, body, retry_after)
        try:
            found = _look_up_body.decode(body)
            size = int(found.file_size) if found.file_size is not None else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            return _trouble("WhatsApp's answer to the look-up cannot be understood.", "not_understood")
        digest = found.sha256.lower() if found.sha256 is not None and _is_hex(found.sha256) else None
        return FoundMedia(
            url=found.url, headers=bearer(account), media_type=found.mime_type, sha256=digest, size=size
        )


def _is_hex(digest: str) -> bool:
    """Look-ups write digests in hex, webhooks in base64."""
    return len(digest) == 64 and all(letter in "0123456789abcdefABCDEF" for letter in digest)
