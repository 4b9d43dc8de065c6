"""Files that we send: had from where they are, and uploaded once where a platform keeps them.

Promises    A failed upload has sent no message, so whatever is wrong with a file is `Declined`. What is
            behind a link is not remembered: it may be another file tomorrow.
Limits      10,000 uploads of a platform are remembered (2 MB); forgetting one costs another upload.
Leaves      How a file is uploaded, and which refusals may be an upload's fault, to each adapter.
"""

import time
from collections import OrderedDict
from typing import Final

from adapters.calling import declined
from adapters.client import TOO_LARGE, PlatformClient
from adapters.port import Account, Declined, ErrorClass, Unanswered
from engine.domain.outbound import MediaRef
from engine.errors import MijraError
from engine.ports import MediaStore

_KNOWN_MAX: Final = 10_000


class KnownUploads:
    """The platform's ids of files that it has from us, by account and file. An upload counts for
    `life_seconds`."""

    def __init__(self, life_seconds: float) -> None:
        self._life_seconds = life_seconds
        self._known: OrderedDict[tuple[int, int, str], tuple[str, float]] = OrderedDict()

    def find(self, ref: MediaRef, account: Account) -> str | None:
        key = _key(ref, account)
        known = self._known.get(key)
        if known is None or known[1] <= time.monotonic():
            return None
        self._known.move_to_end(key)
        return known[0]

    def keep(self, ref: MediaRef, account: Account, upload_id: str) -> None:
        key = _key(ref, account)
        self._known[key] = upload_id, time.monotonic() + self._life_seconds
        self._known.move_to_end(key)
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)

    def forget(self, ref: MediaRef, account: Account) -> None:
        """The next attempt uploads afresh."""
        self._known.pop(_key(ref, account), None)


async def read_stored(media: MediaStore, storage_key: str) -> bytes | Declined:
    """A stored file, whole: what adapters send has some dozen megabytes at most."""
    try:
        return await media.read(storage_key)
    except MijraError as error:
        if error.retryable:
            sentence = "The file store cannot be reached."
            return declined(ErrorClass.UNREACHABLE, "store_unavailable", sentence)
        return declined(ErrorClass.BAD_REQUEST, "file_missing", "The file to be sent is no longer stored.")


async def read_linked(client: PlatformClient, link: str, bytes_max: int) -> bytes | Declined:
    """The file behind a link, for platforms that fetch nothing themselves."""
    answer = await client.exchange("GET", link, answer_bytes_max=bytes_max, follow_redirects=True)
    if isinstance(answer, Unanswered):
        sentence = f"The file behind the link cannot be fetched ({answer.reason})."
        if answer.reason == TOO_LARGE:
            return declined(ErrorClass.BAD_REQUEST, "link_too_large", sentence)
        return declined(ErrorClass.UNREACHABLE, "unreachable", sentence)
    if isinstance(answer, Declined):
        if answer.error_class is not ErrorClass.ACCOUNT:
            return answer
        return declined(ErrorClass.BAD_REQUEST, "link_refused", "The link is not one that may be called.")
    if not answer.is_success:
        gone = 400 <= answer.status_code < 500
        sentence = f"The file behind the link cannot be fetched (HTTP {answer.status_code})."
        return declined(
            ErrorClass.BAD_REQUEST if gone else ErrorClass.UNREACHABLE, f"http_{answer.status_code}", sentence
        )
    return answer.content


def _key(ref: MediaRef, account: Account) -> tuple[int, int, str]:
    return account.tenant_id, account.channel_id, ref.storage_key or ""
