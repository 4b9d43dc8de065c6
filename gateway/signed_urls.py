"""Links to files that work without a token for a while: HMAC-SHA256 over tenant, file and end of validity.

A browser's <img> sends no Authorization header, so the right to see a file travels in the link, and ends.
The end is rounded up to a full hour: within it everybody gets the same link, so caches work.
"""

import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import quote

from engine.errors import Forbidden

VALID_SECONDS = 3600
"""A link lives one to two hours: a page left open reloads its list sooner, a leaked link dies the same
day."""

SIGNATURE_BYTES = 20
"""160 bits of the MAC: far beyond guessing within a link's life, and links stay short."""

_LABEL = b"mijra signed file links v1"


class SignedUrls:
    """`master_key` is the process's master key; the signing key is derived from it and never equals it."""

    def __init__(self, master_key: bytes, base_url: Callable[[], str], clock_ms: Callable[[], int]) -> None:
        self._key = hmac.digest(master_key, _LABEL, "sha256")
        self._base_url = base_url
        self._clock_ms = clock_ms

    def for_tenant(self, slug: str) -> Callable[[int, int], str]:
        """The `SignUrl` that reads build resources with."""

        def sign(tenant_id: int, file_id: int) -> str:
            now = self._clock_ms() // 1000
            expires = (now // VALID_SECONDS + 2) * VALID_SECONDS
            signature = self._signature(tenant_id, file_id, expires)
            path = f"/api/{quote(slug)}/files/{file_id}"
            return f"{self._base_url()}{path}?expires={expires}&signature={signature}"

        return sign

    def check(self, tenant_id: int, file_id: int, expires: int, signature: str) -> None:
        """Raises Forbidden: code `bad_signature`, or `link_expired` for a link that was good once."""
        expected = self._signature(tenant_id, file_id, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise Forbidden("This link is not one of ours.", code="bad_signature")
        if self._clock_ms() // 1000 >= expires:
            raise Forbidden("This link has expired; ask for a new one.", code="link_expired")

    def _signature(self, tenant_id: int, file_id: int, expires: int) -> str:
        text = f"{tenant_id}/{file_id}/{expires}".encode()
        return hmac.new(self._key, text, hashlib.sha256).digest()[:SIGNATURE_BYTES].hex()
