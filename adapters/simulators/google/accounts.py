"""An account, as Google and the business both know it: an agent or a profile."""

from msgspec import Struct


class GoogleAccount(Struct, frozen=True, kw_only=True):
    """`account_id` is the resource's name. An agent has the first two secrets, a profile the others.
    `push_private_key` (PEM) is Google's, and nothing that a business is given."""

    account_id: str
    access_token: str = ""
    partner_key: str = ""
    client_token: str = ""
    push_email: str = ""
    push_audience: str = ""
    refresh_token: str = ""
    client_id: str = ""
    client_secret: str = ""
    push_private_key: str = ""
