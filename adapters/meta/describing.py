"""What the accounts of Meta's platforms have in common, as data: their app, and what direct messages of Pages
and Instagram accounts carry (the Messenger sheet and the Instagram sheet, sections 4 to 7)."""

from typing import Final

from adapters.degrading import LOCATED
from adapters.meta import limits
from engine.domain.platforms import BASE_URL, Capabilities, Field

APP_CREDENTIALS: Final = (
    Field(name="app_secret", label="What webhooks are signed with.", required=True, signs=True),
    Field(name="app_secret_previous", label="Counts beside the new one during a change.", signs=True),
    Field(name="verify_token", label="For the webhook's handshake.", generated=True),
)
PROOF_HEADERS: Final = ("x-hub-signature-256",)
"""What webhooks are signed in."""

VERSION_SETTING: Final = Field(
    name="api_version", label="Of the Graph API.", pattern=r"^v[0-9]{1,3}\.[0-9]{1,2}$"
)

MESSAGING: Final = Capabilities(
    receives=("text", "image", "video", "audio", "document", "sticker", "interactive", "reaction", "system"),
    sends=("text", *limits.FILE_BYTES_MAX, "interactive", "reaction"),
    statuses=("sent", "read"),
    degrades={"location": LOCATED},
    media_bytes_max=limits.FILE_BYTES_MAX,
    interactive=("buttons", "list", "quick_replies"),
    buttons=(
        f"{limits.BUTTONS_MAX} buttons, {limits.QUICK_REPLIES_MAX} quick replies, lists of "
        f"{limits.CARDS_MAX - 1} cards"
    ),
    edits=True,
    echoes=True,
    typing=True,
    read_marks=True,
    profiles=True,
    window_seconds=limits.WINDOW_SECONDS,
    human_window_seconds=limits.HUMAN_WINDOW_SECONDS,
)
"""What Messenger and Instagram share."""

MESSAGING_SETTINGS: Final = (
    BASE_URL,
    VERSION_SETTING,
    Field(
        name="messages_per_second",
        label="A lower limit than the platform's own.",
        kind="number",
        least=1,
        most=limits.CALLS_PER_SECOND,
    ),
    Field(
        name="human_agent",
        label="The app has the Human Agent permission: people may answer for 7 days.",
        kind="flag",
    ),
)


def rates(whose: str) -> str:
    """The limits in words, of each page or account."""
    return f"{limits.CALLS_PER_SECOND}/s per {whose}, {limits.FILES_PER_SECOND}/s audio and video"
