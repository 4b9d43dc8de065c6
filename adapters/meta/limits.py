"""What Messenger and Instagram let an account send: the sheets' numbers, sections 5 and 6."""

from typing import Final

CALLS_PER_SECOND: Final = 300
FILES_PER_SECOND: Final = 10
"""Of these, calls with audio or video."""
CONCURRENCY: Final = 64
"""300 calls a second at the fifth of a second that a Graph call takes."""
USED_UP_PERCENT: Final = 90.0
"""Of the account's calls, by the usage headers: from here on the pace is halved, before the platform
refuses."""

QUICK_REPLIES_MAX: Final = 13
TITLE_MAX: Final = 20
PAYLOAD_MAX: Final = 1_000
BUTTONS_MAX: Final = 3
BUTTON_TEXT_MAX: Final = 640
CARDS_MAX: Final = 10
CARD_TEXT_MAX: Final = 80
"""All of these but the first two are unconfirmed."""

_MEGABYTE: Final = 1_000_000
FILE_BYTES_MAX: Final = {
    "image": 8 * _MEGABYTE,
    "video": 25 * _MEGABYTE,
    "audio": 25 * _MEGABYTE,
    "voice": 25 * _MEGABYTE,
    "document": 25 * _MEGABYTE,
}
"""Of what the platform fetches. Messenger takes larger pictures where they are uploaded; a link and a stored
file have one bound here."""

UPLOAD_LIFE_SECONDS: Final = 85 * 86_400
"""Reusable uploads are valid for 90 days; five fewer leave room for queues."""

WINDOW_SECONDS: Final = 24 * 3_600
HUMAN_WINDOW_SECONDS: Final = 7 * 86_400
"""With the tag HUMAN_AGENT, for answers of people."""
