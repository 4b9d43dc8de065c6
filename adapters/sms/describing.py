"""SMS as data: what messages carry (the Twilio sheet, sections 3 to 7), and what an account consists of."""

from typing import Final

from adapters.degrading import LOCATED, NUMBERED
from adapters.sms.composing import MEDIA_BYTES_MAX
from adapters.sms.senders import ONE_WAY, SEGMENTS_PER_SECOND, SEGMENTS_PER_SECOND_MOST, SENDER
from engine.domain.platforms import BASE_URL, Capabilities, Connection, Field, Platform

_MEDIA: Final = ("image", "video", "audio", "document")
_RATES: Final = ", ".join(f"{rate}/s {name.replace('_', ' ')}" for name, rate in SEGMENTS_PER_SECOND.items())

PLATFORM: Final = Platform(
    name="sms",
    aliases=("twilio",),
    label="SMS (Twilio)",
    # The address is signed too; where no public URL is set, the host is what is known of it.
    proof_headers=("x-twilio-signature", "host"),
    by_phone=True,
    capabilities=Capabilities(
        receives=("text", *_MEDIA),
        sends=("text", *_MEDIA, "voice", "template"),
        statuses=("sent", "delivered", "failed"),
        degrades={"interactive": NUMBERED, "location": LOCATED},
        media_bytes_max=dict.fromkeys((*_MEDIA, "voice"), MEDIA_BYTES_MAX),
        templates="by ContentSid",
        starts=True,
        limits=f"segments: {_RATES}",
    ),
    connection=Connection(
        account=Field(
            name="sender",
            label="A number (+…), short code, Messaging Service (MG…), whatsapp:+…, or a name.",
            pattern=SENDER,
        ),
        one_way=ONE_WAY,
        parent=Field(
            name="account_sid",
            label="The account's (or subaccount's) AccountSid.",
            required=True,
            pattern=r"^AC[0-9a-fA-F]{32}$",
        ),
        credentials=(
            Field(name="auth_token", label="Signs webhooks, and sends.", required=True, signs=True),
            Field(name="auth_token_previous", label="Counts beside the new one during a change.", signs=True),
            Field(name="api_key", label="A key (SK…) to send with in place of the auth token."),
            Field(name="api_secret", label="The key's secret."),
            Field(
                name="webhook_url",
                label="The address that Twilio calls, where it is not the public URL's.",
                pattern="^https?://[^\\s?#]+$",
                length_max=500,
                signs=True,
            ),
        ),
        settings=(
            BASE_URL,
            Field(
                name="sender_type",
                label="long_code, toll_free, short_code or alphanumeric, where the sender does not show it.",
                pattern=f"^({'|'.join(SEGMENTS_PER_SECOND)})$",
            ),
            Field(
                name="segments_per_second",
                label="The sender's own rate.",
                kind="number",
                least=1,
                most=SEGMENTS_PER_SECOND_MOST,
            ),
        ),
        guide="Enter it at Twilio as the number's or service's webhook for incoming messages, with POST.",
    ),
)  # fmt: skip
