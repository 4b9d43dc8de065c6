"""Files that customers send: addresses at Twilio, which redirect to a store (sheet, section 3)."""

import httpx

from adapters.calling import no_source
from adapters.client import Unconnected
from adapters.port import Account, Declined, FoundMedia
from adapters.sms.account import API_HOST, authorization, base_url


class TwilioMedia(Unconnected):
    """Implements `adapters.port.OpenMediaSource`: the webhook's address is the file's; nothing to look up.

    The account's credentials go to Twilio alone; the store that it redirects to does not get them, since a
    redirect to another host loses its authorization.
    """

    platform = "sms"

    async def look_up(
        self, source_id: str | None, source_url: str | None, account: Account
    ) -> FoundMedia | Declined:
        if source_url is None:
            return no_source()
        return FoundMedia(
            url=source_url, headers=authorization(account) if _is_twilios(source_url, account) else {}
        )


def _is_twilios(address: str, account: Account) -> bool:
    """The account's own Twilio (a stand-in, perhaps), or the real one."""
    try:
        origin = _origin(address)
        return origin in (_origin(base_url(account)), _origin(f"https://{API_HOST}"))
    except (httpx.InvalidURL, ValueError):
        return False


def _origin(address: str) -> tuple[str, bytes]:
    url = httpx.URL(address)
    return url.scheme, url.netloc
