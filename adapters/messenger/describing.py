"""Messenger as data: what a Page's conversations carry (the sheet, sections 4 to 7), and how it is spoken
to."""

from typing import Final

from msgspec import structs

from adapters.meta import graph, limits
from adapters.meta.composing import Dialect
from adapters.meta.describing import APP_CREDENTIALS, MESSAGING, MESSAGING_SETTINGS, PROOF_HEADERS, rates
from engine.domain.platforms import Connection, Field, Platform

PLATFORM: Final = Platform(
    name="facebook",
    aliases=("messenger",),
    label="Messenger",
    proof_headers=PROOF_HEADERS,
    capabilities=structs.replace(
        MESSAGING,
        receives=(
            "text", "image", "video", "audio", "document", "sticker", "location", "interactive", "reaction",
            "order", "system",
        ),
        statuses=("sent", "delivered", "read"),
        limits=rates("page"),
    ),
    connection=Connection(
        account=Field(name="page_id", label="The Page's id."),
        credentials=(
            Field(name="access_token", label="The Page's access token.", required=True),
            *APP_CREDENTIALS,
        ),
        settings=MESSAGING_SETTINGS,
        guide="Enter both in the app's dashboard at Meta under Messenger, and subscribe the Page.",
    ),
)  # fmt: skip

DIALECT: Final = Dialect(
    platform=PLATFORM.name,
    label=PLATFORM.label,
    text_max=1_999,
    text_unit="characters",
    text_length=len,
    media_bytes_max=limits.FILE_BYTES_MAX,
    uploads=True,
    metadata=True,
    base_url_of=lambda account: graph.BASE_URL,
    node_of=lambda account: account.external_id,
)
