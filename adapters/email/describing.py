"""E-mail as data: what it carries (the sheet's sections 1 to 6) and what an account consists of.

An account is one address. How its mail comes and goes is the setting `provider`: a mail service (webhooks in,
HTTP out) or a mailbox of one's own (SMTP and IMAP).
"""

from typing import Any, Final

from adapters.degrading import LOCATED, NUMBERED
from adapters.port import Account
from engine.domain.platforms import BASE_URL, Capabilities, Connection, Field, Platform

PROVIDERS: Final = ("mailgun", "sendgrid", "postmark", "mailbox")

MESSAGE_BYTES_MAX: Final = 36 * 1024 * 1024
"""What a provider posts at most: Postmark 35 MB with the attachments inside (sheet, 3.2), and a form's own
bytes. SendGrid and Mailgun post 30 and 25 MB."""

_ATTACHMENT_BYTES_MAX: Final = 10_000_000
"""Of what is sent. In base64 and with its text it stays below every provider's limit, the smallest of which
is Postmark's 10 MB for all of a message."""

_HOST: Final = r"^[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"
_SECURITY: Final = "^(tls|starttls|none)$"
_PORT: Final[dict[str, Any]] = {"least": 1, "most": 65_535}
AUTOMATIC_MAX: Final = 5
AUTOMATIC_SECONDS: Final = 3 * 24 * 3_600
"""RFC 3834 asks for one answer in some days. A customer may write in several matters, each with its rule; two
robots that do not say what they are stop after these."""

_FILES: Final = ("image", "video", "audio", "document")

PLATFORM: Final = Platform(
    name="email",
    label="E-mail",
    # SendGrid's. Mailgun signs in the body; Postmark's proof is a login (Authorization), which is not kept.
    proof_headers=("x-twilio-email-event-webhook-signature", "x-twilio-email-event-webhook-timestamp"),
    delivery_bytes_max=MESSAGE_BYTES_MAX,
    capabilities=Capabilities(
        receives=("text",),
        sends=("text", *_FILES),
        statuses=("sent", "delivered", "read", "failed"),
        degrades={
            "interactive": NUMBERED,
            "location": LOCATED,
            "voice": "A voice message is an attached sound file.",
        },
        media_bytes_max=dict.fromkeys(_FILES, _ATTACHMENT_BYTES_MAX),
        threads=True,
        automatic_max=AUTOMATIC_MAX,
        automatic_seconds=AUTOMATIC_SECONDS,
        writes_opt_in=True,
        starts=True,
        limits="5/s unless the account says otherwise, 1/s per recipient",
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
            Field(name="smtp_password", label="The mail server's password, which sends."),
            Field(name="imap_password", label="The mailbox's password, where it is another."),
            Field(
                name="dkim_private_key",
                label="A private key (RSA, PEM) that signs what goes out by the mail server.",
                length_max=8_192,
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
            Field(name="new_subject", label="The subject of mail that begins a thread.", length_max=200),
            Field(name="html", label="Send texts as HTML too.", kind="flag"),
            Field(
                name="plus_addresses",
                label="Answers go to NAME+TOKEN@DOMAIN; only where such addresses arrive.",
                kind="flag",
            ),
            Field(
                name="messages_per_second",
                label="What the server or service allows.",
                kind="number",
                least=1,
                most=1_000,
            ),
            Field(name="mailgun_domain", label="The sending domain at Mailgun, if another.", pattern=_HOST),
            Field(name="postmark_stream", label="The message stream at Postmark.", length_max=100),
            Field(name="smtp_host", label="The mail server that sends.", pattern=_HOST, length_max=253),
            Field(name="smtp_port", label="465, 587 or 25 by smtp_security.", kind="number", **_PORT),
            Field(name="smtp_security", label="tls, starttls (the default) or none.", pattern=_SECURITY),
            Field(name="smtp_username", label="The address, if nothing is given.", length_max=320),
            Field(name="dkim_selector", label="The selector of the DKIM key.", pattern="^[a-zA-Z0-9._-]+$"),
            Field(name="dkim_domain", label="The domain of the DKIM key, if another.", pattern=_HOST),
            Field(
                name="dmarc",
                label="What the built-in mail server does with mail that is not its domain's: note (the "
                "default), refuse where the domain asks for it, or off.",
                pattern="^(note|refuse|off)$",
            ),
            Field(
                name="imap_host", label="The mailbox's server, which is asked for new mail.", pattern=_HOST
            ),
            Field(name="imap_port", label="993, or 143 by imap_security.", kind="number", **_PORT),
            Field(name="imap_security", label="tls (the default), starttls or none.", pattern=_SECURITY),
            Field(name="imap_username", label="smtp_username or the address, if nothing.", length_max=320),
            Field(name="imap_folder", label="INBOX, if nothing is given.", length_max=200),
            Field(
                name="imap_poll_seconds",
                label="How often a server without IDLE is asked.",
                kind="number",
                least=10,
                most=3_600,
            ),
        ),
        guide="At the provider, enter the webhook's address for inbound mail and for events. It is secret: "
        "whoever knows it can deliver mail where the provider does not sign.",
    ),
)


def provider_of(account: Account) -> str:
    """What the account says, or else what it has the means for: a mail server, a service's key."""
    given = account.settings.get("provider")
    if given in PROVIDERS:
        return str(given)
    if account.settings.get("smtp_host"):
        return "mailbox"
    named = (name for name in PROVIDERS for key in account.credentials if key.startswith(f"{name}_"))
    return next(named, "mailbox")
