"""The played business accounts, as the platform and the business both know them."""

from msgspec import Struct


class TikTokAccount(Struct, frozen=True, kw_only=True):
    """`account_id` is the open_id. The app's keys are the account's: each has an app of its own."""

    account_id: str
    client_key: str
    client_secret: str
    access_token: str
    refresh_token: str
