"""Files that customers send: signed addresses at the platform's own servers, which end soon (sheets, 4)."""

from adapters.calling import no_source
from adapters.client import Unconnected
from adapters.port import Account, Declined, FoundMedia


class AddressedMedia(Unconnected):
    """Implements `adapters.port.OpenMediaSource`: the webhook's address is the file's; nothing to look up."""

    def __init__(self, platform: str) -> None:
        self.platform = platform

    async def look_up(
        self, source_id: str | None, source_url: str | None, account: Account
    ) -> FoundMedia | Declined:
        if source_url is None:
            return no_source()
        # Without the token: the address carries its own right, and may be anybody's.
        return FoundMedia(url=source_url, headers={})
