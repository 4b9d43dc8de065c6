"""Google Business as data: what agents of Business Messages and reviews of profiles carry (the sheet, parts A
and B), and what an account consists of."""

from typing import Final

from adapters.degrading import LOCATED
from adapters.google_business import limits
from adapters.google_business.naming import ACCOUNT_PATTERN
from adapters.google_business.tokens import CREDENTIALS
from engine.domain.platforms import BASE_URL, Capabilities, Connection, Field, Platform

PLATFORM: Final = Platform(
    name="google-business",
    aliases=("google", "google_business"),
    label="Google Business",
    # The token of a push (Authorization) is good for an hour and for whatever is sent with it, so not kept.
    proof_headers=("x-goog-signature",),
    capabilities=Capabilities(
        receives=("text", "image", "interactive", "system"),
        sends=("text", "image", "interactive"),
        statuses=("sent", "delivered", "read"),
        degrades={"location": LOCATED},
        media_bytes_max={"image": limits.IMAGE_BYTES_MAX},
        interactive=("buttons", "list", "quick_replies"),
        buttons=(
            f"{limits.CARD_SUGGESTIONS_MAX} buttons, {limits.SUGGESTIONS_MAX} quick replies, lists of "
            f"{limits.CARDS_MAX - 1} cards; none for reviews"
        ),
        edits=True,
        deletions=True,
        echoes=True,
        typing=True,
        limits=f"{limits.MESSAGES_PER_SECOND}/s per agent, {limits.ANSWERS_PER_SECOND}/s per profile",
    ),
    connection=Connection(
        account=Field(
            name="resource_name",
            label="brands/B/agents/A for messages, accounts/A/locations/L for a profile's reviews.",
            pattern=ACCOUNT_PATTERN,
            length_max=100,
        ),
        credentials=(
            Field(name="partner_key", label="Messages: what webhooks are signed with.", signs=True),
            Field(
                name="client_token",
                label="Messages: for the webhook's handshake; newer agents sign with it.",
                signs=True,
            ),
            Field(
                name="push_email",
                label="Reviews: the service account of the Pub/Sub push subscription.",
                signs=True,
            ),
            Field(
                name="push_audience",
                label="Reviews: the audience of the subscription; Google's default is the webhook's URL.",
                signs=True,
            ),
            *CREDENTIALS,
        ),
        settings=(
            BASE_URL,
            Field(
                name="keys_url",
                label="Reviews: where the keys of push tokens are; for another than Google's.",
                pattern="^https?://[^\\s?#]+$",
                length_max=500,
            ),
            Field(
                name="messages_per_second",
                label="Messages: the agent's pace.",
                kind="number",
                least=1,
                most=limits.MESSAGES_PER_SECOND_MOST,
            ),
            Field(
                name="representative_name",
                label="Messages: the name under which customers see answers.",
                length_max=100,
            ),
        ),
        guide=(
            "For reviews: publish the profile's notifications to a Pub/Sub topic, and push its subscription "
            "here with authentication on. For messages: enter it as the agent's webhook."
        ),
    ),
)  # fmt: skip
