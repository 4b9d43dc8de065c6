"""The business side of the played platform: which numbers exist and with which keys."""

from msgspec import Struct


class WhatsAppAccount(Struct, frozen=True, kw_only=True):
    """One WhatsApp number of one business, as the platform and the business both know it.

    `app_secret` signs webhooks, `verify_token` is for the handshake, `access_token` is the bearer token
    of the Graph calls. Several accounts may share a `waba_id`, an `app_secret` or a token, as several
    numbers of one business do. Without `callback_url` the number is there and silent.
    """

    app_secret: str
    verify_token: str
    phone_number_id: str
    waba_id: str
    access_token: str
    display_phone_number: str
    callback_url: str | None = None

    @property
    def account_id(self) -> str:
        return self.phone_number_id


def demo_account(number: int = 0) -> WhatsAppAccount:
    """An account with keys that are plainly no secrets, for sandboxes and tests; differs by `number`."""
    return WhatsAppAccount(
        app_secret=f"simulated-app-secret-{number}",
        verify_token=f"simulated-verify-token-{number}",
        phone_number_id=str(106_540_352_242_000 + number),
        waba_id=str(102_290_129_340_000 + number),
        access_token=f"SIMULATED-TOKEN-{number}",
        display_phone_number=str(15_550_100_000 + number),
    )
