"""Instagram as data: what direct messages carry (the sheet, sections 4 to 7), and how it is spoken to.

There are two ways to the same messages: with Instagram Login (the default) and through a linked Page, which
is chosen by the setting `page_id`. Webhooks are alike; address, token and the app secret differ."""

from typing import Final

from adapters.degrading import LOCATED
from adapters.meta.sending import BUTTONS_MAX, CALLS_PER_SECOND, CARDS_MAX, QUICK_REPLIES_MAX, Dialect
from adapters.port import Account
from engine.domain.platforms import BASE_URL, Capabilities, Connection, Field, Platform, Renewal

_MEGABYTE: Final = 1_000_000
_DAY: Final = 86_400
_BYTES_MAX: Final = {
    "image": 8 * _MEGABYTE,
    "video": 25 * _MEGABYTE,
    "audio": 25 * _MEGABYTE,
    "voice": 25 * _MEGABYTE,
    "document": 25 * _MEGABYTE,
}

PLATFORM: Final = Platform(
    name="instagram",
    label="Instagram",
    proof_headers=("x-hub-signature-256",),
    capabilities=Capabilities(
        receives=(
            "text", "image", "video", "audio", "document", "sticker", "interactive", "reaction", "system",
        ),
        sends=("text", *_BYTES_MAX, "interactive", "reaction"),
        statuses=("sent", "read"),
        degrades={"location": LOCATED},
        media_bytes_max=_BYTES_MAX,
        interactive=("buttons", "list", "quick_replies"),
        buttons=f"{BUTTONS_MAX} buttons, {QUICK_REPLIES_MAX} quick replies, lists of {CARDS_MAX - 1} cards",
        edits=True,
        deletions=True,
        echoes=True,
        typing=True,
        read_marks=True,
        takes_our_id=False,
        profiles=True,
        window_seconds=24 * 3_600,
        human_window_seconds=7 * 24 * 3_600,
        limits=f"{CALLS_PER_SECOND}/s per account, 10/s audio and video",
    ),
    connection=Connection(
        account=Field(name="instagram_id", label="The professional account's id."),
        credentials=(
            Field(name="access_token", label="The user's token, or the linked Page's.", required=True),
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
            Field(
                name="page_id",
                label="The linked Page, for accounts that are reached through one.",
                pattern="^[0-9]{1,30}$",
            ),
        ),
        renewal=Renewal(names=("access_token",), lifetime_seconds=60 * _DAY, age_seconds_min=_DAY),
        guide="Enter both in the app's dashboard at Meta under Instagram, and subscribe the account.",
    ),
)  # fmt: skip


def _base_url(account: Account) -> str:
    linked = account.settings.get("page_id")
    usual = "https://graph.facebook.com" if linked else "https://graph.instagram.com"
    return str(account.settings.get("base_url") or usual)


DIALECT: Final = Dialect(
    platform=PLATFORM.name,
    label=PLATFORM.label,
    text_max=1_000,
    text_unit="bytes in UTF-8",
    text_length=lambda text: len(text.encode()),
    media_bytes_max=_BYTES_MAX,
    uploads=False,
    metadata=False,
    base_url_of=_base_url,
    node_of=lambda account: str(account.settings.get("page_id") or account.external_id),
)
