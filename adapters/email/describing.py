"""E-mail as data: what it carries (the sheet's sections 1 to 6) and what an account consists of.

An account is one address. How its mail comes and goes is the setting `provider`: a mail service (webhooks in,
HTTP out) or a mailbox of one's own (SMTP and IMAP).
"""

from typing import Final

from engine.domain.platforms import BASE_URL, Capabilities, Connection, Field, Platform

PROVIDERS: Final = ("mailgun", "sendgrid", "postmark", "mailbox")

MESSAGE_BYTES_MAX: Final = 36 * 1024 * 1024
"""What a provider posts at most: Postmark 35 MB with the attachments inside (sheet, 3.2), and a form's own
bytes. SendGrid and Mailgun post 30 and 25 MB."""

_ATTACHMENT_BYTES_MAX: Final = 10 * 1024 * 1024
"""Of what is sent. In base64 and with its text it stays below every provider's limit, the smallest of which
is Postmark's 10 MB for all of a message."""

AUTOMATIC_MAX: Final = 5
AUTOMATIC_SECONDS: Final = 3 * 24 * 3_600
"""RFC 3834 asks for one answer in some days. A customer may write in several matters, each with its rule; two
robots that do not say what they are stop after these."""

_FILES: Final = ("image", "video", "audio", "document")

PLATFORM: Final = Platform(
    name="email",
    label="E-mail",
    delivery_bytes_max=MESSAGE_BYTES_MAX,
    capabilities=Capabilities(
        receives=("text",),
        sends=("text", *_FILES),
        statuses=("sent", "delivered", "read", "failed"),
        degrades={
            "interactive": "The choices are a numbered list in the text.",
            "location": "The place is a line of text with a link to a map.",
            "voice": "A voice message is an attached sound file.",
        },
        media_bytes_max=dict.fromkeys(_FILES, _ATTACHMENT_BYTES_MAX),
        threads=True,
        automatic_max=AUTOMATIC_MAX,
        automatic_seconds=AUTOMATIC_SECONDS,
        starts=True,
        limits="as the provider allows",
    ),
    connection=Connection(
        account=Field(
            name="address",
            label="The e-mail address that customers write to, in lower case.",
            pattern=r"^[^@\sA-Z<>,;:\"()]{1,64}@[^@\sA-Z<>,;:\"()]{1,189}$",
            length_max=254,
        ),
        credentials=(
            Field(
                name="reply_secret",
                label="What reply addresses and message ids are signed with.",
                generated=True,
            ),
            Field(name="mailgun_signing_key", label="Mailgun's HTTP webhook signing key.", signs=True),
            Field(name="mailgun_api_key", label="Mailgun's API key, which sends."),
            Field(
                name="sendgrid_public_key",
                label="SendGrid's key for signed event webhooks (base64).",
                signs=True,
            ),
            Field(
                name="sendgrid_parse_key",
                label="SendGrid's key for signed Inbound Parse, where a security policy is set (base64).",
                signs=True,
            ),
            Field(name="sendgrid_api_key", label="SendGrid's API key, which sends."),
            Field(name="postmark_server_token", label="Postmark's server token, which sends."),
            Field(
                name="postmark_webhook_login",
                label="USER:PASSWORD of the webhook's address at Postmark (Basic auth).",
                pattern="^[^:]+:.+$",
                signs=True,
            ),
        ),
        settings=(
            BASE_URL,
            Field(
                name="provider",
                label="How mail comes and goes: mailgun, sendgrid, postmark or mailbox (SMTP and IMAP).",
                pattern=f"^({'|'.join(PROVIDERS)})$",
            ),
            Field(name="from_name", label="The name that customers see.", length_max=200),
        ),
        guide="At the provider, enter the webhook's address for inbound mail and for events. It is secret: "
        "whoever knows it can deliver mail where the provider does not sign.",
    ),
)
