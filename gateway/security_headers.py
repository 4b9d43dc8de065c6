"""Headers that every answer of the public port carries unless it says otherwise itself.

Exists because there are two ways to an answer, the application's and the webhook lane's, and a client must
not be able to tell them apart. An API has no page of its own to protect; these keep a browser from making one
out of an answer that somebody else has chosen.
"""

from collections.abc import Mapping
from typing import Final

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-site",
    "Cache-Control": "no-store",
}
