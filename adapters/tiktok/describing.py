"""TikTok as data: what direct messages carry (the sheet, sections 4 to 6) and what an account consists of."""

from typing import Final

from adapters.degrading import LOCATED, NUMBERED
from adapters.tiktok import limits
from engine.domain.platforms import BASE_URL, Capabilities, Connection, Field, Platform, Renewal

PLATFORM: Final = Platform(
    name="tiktok",
    label=limits.LABEL,
    proof_headers=("tiktok-signature",),
    capabilities=Capabilities(
        receives=("text", "image", "video", "sticker", "system"),
        sends=("text", "image", "interactive"),
        statuses=("sent", "read"),
        degrades={"location": LOCATED, "interactive": NUMBERED},
        media_bytes_max={"image": limits.IMAGE_BYTES_MAX},
        interactive=("buttons", "quick_replies"),
        buttons=f"cards of {limits.BUTTONS_MAX} buttons",
        echoes=True,
        typing=True,
        read_marks=True,
        takes_our_id=False,
        window_seconds=limits.WINDOW_SECONDS,
        window_messages_max=limits.WINDOW_MESSAGES_MAX,
        limits=f"{limits.CALLS_PER_SECOND}/s per app",
    ),
    connection=Connection(
        account=Field(name="open_id", label="The business account's open_id (business_id)."),
        parent=Field(name="client_key", label="The app's client key, by which tokens are renewed."),
        credentials=(
            Field(name="access_token", label="The account's token, which lives a day.", required=True),
            Field(name="refresh_token", label="What the token is renewed with."),
            Field(
                name="client_secret",
                label="The app's secret: what webhooks are signed with.",
                required=True,
                signs=True,
            ),
            Field(
                name="client_secret_previous", label="Counts beside the new one during a change.", signs=True
            ),
        ),
        settings=(
            BASE_URL,
            Field(
                name="messages_per_second",
                label="The account's share of the app's calls.",
                kind="number",
                least=1,
                most=limits.CALLS_PER_SECOND_MOST,
            ),
        ),
        renewal=Renewal(
            names=("access_token", "refresh_token"),
            lifetime_seconds=limits.TOKEN_SECONDS,
            single_use=True,
        ),
        guide="Register it as the app's callback for DIRECT_MESSAGE (business/webhook/update/).",
    ),
)
