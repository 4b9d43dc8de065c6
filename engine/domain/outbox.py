"""What conversations tell the actors whose job is I/O: the channel actor of an account (kind "channel",
key = channel id) and the media fetcher of a tenant (kind "media"). The actors live in adapters/."""

from msgspec import Struct

from engine.domain.outbound import OutboxItem
from engine.domain.rows import AttachmentRow
from engine.runtime import Address

CHANNEL_KIND = "channel"
MEDIA_KIND = "media"


def channel_address(tenant_id: int, channel_id: int) -> Address:
    return Address(CHANNEL_KIND, tenant_id, channel_id)


def media_address(tenant_id: int) -> Address:
    return Address(MEDIA_KIND, tenant_id, "media")


class Deliver(Struct, frozen=True, tag=True):
    """To the channel: an item whose row is committed. Send it in its turn. `again`: a person's retry of one
    that had ended."""

    item: OutboxItem
    again: bool = False


class Settled(Struct, frozen=True, tag=True):
    """To the channel: it is known by other means what became of this item; let go of it. It takes the fastest
    lane, so it may come before the item itself."""

    outbox_id: int


class Wake(Struct, frozen=True, tag=True):
    """To channel or fetcher: open rows may be waiting in the store; look."""


class Refresh(Struct, frozen=True, tag=True):
    """To the channel: its settings or credentials have changed; also ends a stop for bad credentials."""


class Halt(Struct, frozen=True, tag=True):
    """To the channel: its credentials hold no more, says the platform by itself. Keep everything until
    Refresh. `note` says why."""

    note: str


class Fetch(Struct, frozen=True, tag=True):
    """To the fetcher: download this attachment. Its row is committed."""

    row: AttachmentRow
    platform: str
