"""The platform's numbers, each with the section of the WhatsApp sheet that it was read in."""

from typing import Final

from adapters.port import Account, Limits

API_VERSION: Final = "v25.0"
"""A part of every path (5.1); a channel's setting `api_version` overrides it."""
BASE_URL: Final = "https://graph.facebook.com"
"""A channel's setting `base_url` overrides it, for stand-ins of the platform."""

MESSAGES_PER_SECOND: Final = 80
"""Per number (6.1). Upgraded numbers reach 1000, coexistence numbers 20: the setting
`messages_per_second`."""
PAIR_SECONDS: Final = 6.0
PAIR_BURST: Final = 45
"""One message per 6 s to one user, bursts up to 45 that are paid back (6.1)."""
CONCURRENCY: Final = 32
"""80 messages a second at the 0.3 to 0.4 s that a Graph call takes."""

CALLBACK_DATA_MAX: Final = 512
TEXT_MAX: Final = 4_096
CAPTION_MAX: Final = 1_024
BUTTONS_MAX: Final = 3
BUTTON_TITLE_MAX: Final = 20
BUTTON_ID_MAX: Final = 256
BODY_MAX: Final = 1_024
LIST_BODY_MAX: Final = 4_096
HEADER_MAX: Final = 60
FOOTER_MAX: Final = 60
LIST_BUTTON_MAX: Final = 20
SECTIONS_MAX: Final = 10
ROWS_MAX: Final = 10
ROW_TITLE_MAX: Final = 24
ROW_ID_MAX: Final = 200
ROW_DESCRIPTION_MAX: Final = 72
SECTION_TITLE_MAX: Final = 24
# All of the above: section 5.1.

MEGABYTE: Final = 1_000_000
UPLOAD_BYTES_MAX: Final = {
    "image": 5 * MEGABYTE,
    "audio": 16 * MEGABYTE,
    "voice": 16 * MEGABYTE,
    "video": 16 * MEGABYTE,
    "document": 100 * MEGABYTE,
    "sticker": 500_000,
}
"""By kind (5.4). A static sticker may have 100 KB only; which one a file is, the platform sees better than
we."""

UPLOAD_LIFE_SECONDS: Final = 25 * 86_400
"""Uploaded media can be used for 30 days (5.4); five days less leave room for retries and queues."""

INBOUND_MEDIA_DAYS: Final = 7
"""Media ids that came by webhook expire after 7 days (5.4)."""


def limits_of(account: Account) -> Limits:
    """The sheet's limits with the account's own `messages_per_second` and `concurrency` where they are set
    sensibly."""
    return Limits(
        messages_per_second=_setting(account, "messages_per_second", MESSAGES_PER_SECOND, 1_000),
        pair_seconds=PAIR_SECONDS,
        pair_burst=PAIR_BURST,
        concurrency=_setting(account, "concurrency", CONCURRENCY, 256),
    )


def _setting(account: Account, name: str, default: int, most: int) -> int:
    value = account.settings.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    return default
