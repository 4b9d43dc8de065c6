"""The platform's numbers, each with the section of the WhatsApp sheet that it was read in."""

from typing import Final

from adapters.port import Account, Limits

LABEL: Final = "WhatsApp"

MESSAGES_PER_SECOND: Final = 80
"""Per number (6.1). Coexistence numbers have 20: the setting `messages_per_second`."""
MESSAGES_PER_SECOND_MOST: Final = 1_000
"""Of a number that was upgraded (6.1)."""
PAIR_SECONDS: Final = 6.0
PAIR_BURST: Final = 45
"""One message per 6 s to one user, bursts up to 45 that are paid back (6.1)."""
CONCURRENCY: Final = 32
"""80 messages a second at the 0.3 to 0.4 s that a Graph call takes."""
CONCURRENCY_MOST: Final = 256
"""The setting `concurrency` reaches no further: the connections of all accounts."""

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
# All of these: section 5.1.

MESSAGE_ID_MAX: Final = 512
"""Ids have 60 to 200 characters; the sheet gives no bound."""
EMOJI_MAX: Final = 32
"""The longest sequences have about ten code points (families with skin tones, flags)."""
TEMPLATE_NAME_MAX: Final = 512
LANGUAGE_MAX: Final = 20
"""Codes look like en or en_US."""

MEGABYTE: Final = 1_000_000
UPLOAD_BYTES_MAX: Final = {
    "image": 5 * MEGABYTE,
    "video": 16 * MEGABYTE,
    "audio": 16 * MEGABYTE,
    "voice": 16 * MEGABYTE,
    "document": 100 * MEGABYTE,
    "sticker": 500_000,
}
"""By kind (5.4). A static sticker may have 100 KB only; which one a file is, the platform sees better than
we."""

UPLOAD_LIFE_SECONDS: Final = 25 * 86_400
"""Uploaded media can be used for 30 days (5.4); five days less leave room for retries and queues."""


def limits_of(account: Account) -> Limits:
    """The sheet's limits with the account's own `messages_per_second` and `concurrency` where they are set
    sensibly."""
    return Limits(
        messages_per_second=account.number(
            "messages_per_second", MESSAGES_PER_SECOND, MESSAGES_PER_SECOND_MOST
        ),
        pair_seconds=PAIR_SECONDS,
        pair_burst=PAIR_BURST,
        concurrency=account.number("concurrency", CONCURRENCY, CONCURRENCY_MOST),
    )
