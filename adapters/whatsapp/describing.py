"""WhatsApp as data: what it carries (the sheet's sections 4 to 7) and what an account consists of."""

from typing import Final

from adapters.meta.describing import APP_CREDENTIALS, PROOF_HEADERS, VERSION_SETTING
from adapters.whatsapp import limits
from engine.domain.platforms import BASE_URL, Capabilities, Connection, Field, Platform

_MEDIA: Final = tuple(limits.UPLOAD_BYTES_MAX)

PLATFORM: Final = Platform(
    name="whatsapp",
    label=limits.LABEL,
    proof_headers=PROOF_HEADERS,
    by_phone=True,
    capabilities=Capabilities(
        receives=(
            "text", *_MEDIA, "location", "contacts", "interactive", "reaction", "order", "system",
        ),
        sends=("text", *_MEDIA, "location", "interactive", "template", "reaction"),
        statuses=("sent", "delivered", "read", "failed"),
        media_bytes_max=limits.UPLOAD_BYTES_MAX,
        interactive=("buttons", "list"),
        buttons=f"{limits.BUTTONS_MAX} buttons, lists of {limits.ROWS_MAX}",
        templates="approved ones, by name and language",
        edits=True,
        deletions=True,
        echoes=True,
        typing=True,
        read_marks=True,
        window_seconds=24 * 3_600,
        starts=True,
        limits=f"{limits.MESSAGES_PER_SECOND}/s per number, 1 per {limits.PAIR_SECONDS:g} s per customer",
    ),
    connection=Connection(
        account=Field(name="phone_number_id", label="The number's id at Meta, not the number itself."),
        parent=Field(name="waba_id", label="The WhatsApp Business Account above it."),
        credentials=(
            Field(name="access_token", label="The token that sends.", required=True),
            *APP_CREDENTIALS,
        ),
        settings=(
            BASE_URL,
            VERSION_SETTING,
            Field(
                name="messages_per_second",
                label="The number's limit at the platform.",
                kind="number",
                least=1,
                most=limits.MESSAGES_PER_SECOND_MOST,
            ),
        ),
        guide="Enter both in the app's dashboard at Meta under WhatsApp, Configuration.",
    ),
)  # fmt: skip
