"""What TikTok lets a business account do: the sheet's numbers, sections 5 and 6."""

from typing import Final

LABEL: Final = "TikTok"
BASE_URL: Final = "https://business-api.tiktok.com"
API_VERSION: Final = "v1.3"

WINDOW_SECONDS: Final = 48 * 3_600
WINDOW_MESSAGES_MAX: Final = 10
"""Messages of the business in the window after each message of the person."""

CALLS_PER_SECOND: Final = 10
"""For each app and endpoint; unconfirmed, so the channel's setting `messages_per_second` may raise it."""
CALLS_PER_SECOND_MOST: Final = 100
CONCURRENCY: Final = 16
"""More than 10 a second with calls of a second need."""

TEXT_MAX: Final = 6_000
CARD_TITLE_MAX: Final = 40
BUTTONS_MAX: Final = 3
BUTTON_TITLE_MAX: Final = 20
LINK_TITLE_MAX: Final = 40
BUTTON_ID_MAX: Final = 40

IMAGE_BYTES_MAX: Final = 3_000_000
IMAGE_TYPES: Final = frozenset({"image/jpeg", "image/png"})
UPLOAD_LIFE_SECONDS: Final = 28 * 86_400
"""Uploads are kept for 30 days; two fewer leave room for queues."""

TOKEN_SECONDS: Final = 86_400
"""What an access token lives; the answer that brings one says it exactly."""
