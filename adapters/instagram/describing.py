"""Instagram as data: what direct messages carry (the sheet, sections 4 to 7), and how it is spoken to.

There are two ways to the same messages: with Instagram Login (the default) and through a linked Page, which
is chosen by the setting `page_id`. Webhooks are alike; address, token and the app secret differ."""

from typing import Final

from msgspec import structs

from adapters.meta import graph, limits
from adapters.meta.composing import Dialect
from adapters.meta.describing import APP_CREDENTIALS, MESSAGING, MESSAGING_SETTINGS, PROOF_HEADERS, rates
from engine.domain.platforms import Connection, Field, Platform, Renewal

LOGIN_URL: Final = "https://graph.instagram.com"
_DAY: Final = 86_400

PLATFORM: Final = Platform(
    name="instagram",
    label="Instagram",
    proof_headers=PROOF_HEADERS,
    capabilities=structs.replace(MESSAGING, deletions=True, takes_our_id=False, limits=rates("account")),
    connection=Connection(
        account=Field(name="instagram_id", label="The professional account's id."),
        credentials=(
            Field(name="access_token", label="The user's token, or the linked Page's.", required=True),
            *APP_CREDENTIALS,
        ),
        settings=(
            *MESSAGING_SETTINGS,
            Field(
                name="page_id",
                label="The linked Page, for accounts that are reached through one.",
                pattern="^[0-9]{1,30}$",
            ),
        ),
        renewal=Renewal(names=("access_token",), lifetime_seconds=60 * _DAY, age_seconds_min=_DAY),
        guide="Enter both in the app's dashboard at Meta under Instagram, and subscribe the account.",
    ),
)

DIALECT: Final = Dialect(
    platform=PLATFORM.name,
    label=PLATFORM.label,
    text_max=1_000,
    text_unit="bytes in UTF-8",
    text_length=lambda text: len(text.encode("utf-8", "replace")),
    media_bytes_max=limits.FILE_BYTES_MAX,
    uploads=False,
    metadata=False,
    base_url_of=lambda account: graph.BASE_URL if account.settings.get("page_id") else LOGIN_URL,
    node_of=lambda account: str(account.settings.get("page_id") or account.external_id),
)
