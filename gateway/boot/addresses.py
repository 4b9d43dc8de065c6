"""Where we are reached: by browsers and platforms, and by programs on this machine."""

from adapters.port import Account
from gateway.directory import Directory
from gateway.webhooks import PREFIX


class Addresses:
    """`base_url` is the public URL, or what the public port turned out to be."""

    def __init__(self, public_url: str | None, directory: Directory) -> None:
        self.base_url = public_url or ""
        self._public_url = public_url
        self._directory = directory

    def opened(self, local_url: str) -> None:
        """The public port is open."""
        self.base_url = self._public_url or local_url

    def webhook(self, account: Account) -> str | None:
        """Where the account's platform posts to; None when it is not connected."""
        endpoint = self._directory.by_account(account.platform, account.external_id)
        if endpoint is None or endpoint.channel_id != account.channel_id:
            return None
        return f"{self.base_url}{PREFIX}{account.platform}/{endpoint.endpoint_key}"


def reachable(host: str) -> str:
    """An address to reach a listener on this machine by; IPv6 ones in brackets."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104  not bound here
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
