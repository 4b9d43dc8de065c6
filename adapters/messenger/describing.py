"""Messenger as data: what a Page's conversations carry (the sheet, sections 4 to 7), and how it is spoken
to."""

from typing import Final

from adapters.degrading import LOCATED
from adapters.meta.sending import BUTTONS_MAX, CALLS_PER_SECOND, CARDS_MAX, QUICK_REPLIES_MAX, Dialect
from engine.domain.platforms import BASE_URL, Capabilities, Connection, Field, Platform

_MEGABYTE: Final = 1_000_000
_BYTES_MAX: Final = {
    "image": 8 * _MEGABYTE,
    "video": 25 * _MEGABYTE,
    "audio": 25 * _MEGABYTE,
    "voice": 25 * _MEGABYTE,
    "document": 25 * _MEGABYTE,
}
"""Section 5: 25 MB, and 8 MB for pictures that the platform fetches."""

PLATFORM: Final = Platform(
    name="facebook",
    aliases=("messenger",),
    label="Messenger",
    proof_headers=("x-hub-signature-256",),
    capabilities=Capabilities(
        receives=(
            "text", "image", "video", "audio", "document", "sticker", "location", "interactive", "reaction",
            "order", "system",
        ),
        sends=("text", *_BYTES_MAX, "interactive", "reaction"),
        statuses=("sent", "delivered", "read"),
        degrades={"location": LOCATED},
        media_bytes_max=_BYTES_MAX,
        interactive=("buttons", "list", "quick_replies"),
        buttons=f"{BUTTONS_MAX} buttons, {QUICK_REPLIES_MAX} quick replies, lists of {CARDS_MAX - 1} cards",
        edits=True,
        echoes=True,
        typing=True,
        read_marks=True,
        profiles=True,
        window_seconds=24 * 3_600,
        human_window_seconds=7 * 24 * 3_600,
        limits=f"{CALLS_PER_SECOND}/s per page, 10/s audio and video",
    ),
    connection=Connection(
        account=Field(name="page_id", label="The Page's id."),
        credentials=(
            Field(name="access_token", label="The Page's access token.", required=True),
            Field(name="app_secret", label="What webhooks are signed with.", required=True, signs=True),
            Field(name="app_secret_previous", label="Counts beside the new one during a change.", signs=True),
            Field(name="verify_token", label="For the webhook's handshake.", generated=True),
        ),
        settings=(
            BASE_URL,
            Field(name="api_version", label="Of the Graph API.", pattern=r"^v[0-9]{1,3}\.[0-9]{1,2}$"),
            Field(
                name="messages_per_second",
                label="A lower limit than the platform's own.",
                kind="number",
                least=1,
                most=CALLS_PER_SECOND,
            ),
            Field(
                name="human_agent",
                label="The app has the Human Agent permission: people may answer for 7 days.",
                kind="flag",
            ),
        ),
        guide="Enter both in the app's dashboard at Meta under Messenger, and subscribe the Page.",
    ),
)  # fmt: skip

DIALECT: Final = Dialect(
    platform=PLATFORM.name,
    label=PLATFORM.label,
    text_max=1_999,
    text_unit="characters",
    text_length=len,
    media_bytes_max=_BYTES_MAX,
    uploads=True,
    metadata=True,
    base_url_of=lambda account: str(account.settings.get("base_url") or "https://graph.facebook.com"),
    node_of=lambda account: account.external_id,
)
