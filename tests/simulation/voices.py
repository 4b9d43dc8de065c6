"""The voices of the played platforms: what each has of its own, and how its accounts are made."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from adapters.simulators.google.accounts import GoogleAccount
from adapters.simulators.google.messages import MessagesSimulator
from adapters.simulators.http import Request
from adapters.simulators.messaging.graph import MessagingAccount
from adapters.simulators.messaging.platform import MessagingSimulator
from adapters.simulators.playing.calls import Calls
from adapters.simulators.playing.platform import Played
from adapters.simulators.settings import Settings
from adapters.simulators.sms.api import SmsAccount
from adapters.simulators.sms.platform import SmsSimulator
from adapters.simulators.tiktok.accounts import TikTokAccount
from adapters.simulators.tiktok.platform import TikTokSimulator
from tests.simulation.played import PlayedVoice

if TYPE_CHECKING:
    from random import Random

_EARLY_MS: Final = 60_000
"""How long before the day the first credentials were given."""


class MessagingVoice(PlayedVoice):
    """Messenger and Instagram."""

    kinds: ClassVar = {
        "reply": 0.06,
        "image": 0.04,
        "reaction": 0.05,
        "edit": 0.05,
        "sticker": 0.02,
        "postback": 0.03,
    }
    codes: ClassVar = {
        "send_throttled": (613, "Too fast."),
        "send_error": (2, "Later."),
        "send_refused": (551, "This person cannot be reached."),
    }
    rules: ClassVar = {"outside of allowed window": "window"}

    def make(self, seed: int, habits: Settings, options: "Random") -> Played[Any, Any]:
        account = MessagingAccount(
            account_id=str(610_000_000_000_000 + self.line.channel_id),
            app_secret=options.choice(("secret-of-one-app", f"secret-{self.line.channel_id}")),
            verify_token="verify",
            access_token=f"token-{self.line.channel_id}",
        )
        return MessagingSimulator(self.platform, [account], seed=seed, settings=habits)

    def pace(self, options: "Random") -> tuple[int, int]:
        per_second = options.choice((2, 20, 80))
        self.settings |= {"messages_per_second": per_second, "human_agent": options.random() < 0.3}
        return per_second, 64

    @property
    def api(self) -> Calls:
        assert isinstance(self.sim, MessagingSimulator)
        return self.sim.api

    @property
    def company(self) -> Hashable:
        return (self.platform, self.account.app_secret)

    def credentials(self) -> dict[str, str]:
        account = self.now()
        return {
            "app_secret": account.app_secret,
            "verify_token": account.verify_token,
            "access_token": account.access_token,
        }


class MessengerVoice(MessagingVoice):
    platform = "facebook"


class InstagramVoice(MessagingVoice):
    platform = "instagram"
    kinds: ClassVar = {**MessagingVoice.kinds, "deleted": 0.04}


class TikTokVoice(PlayedVoice):
    """The token of some accounts ends within the day, and is renewed before."""

    platform = "tiktok"
    kinds: ClassVar = {"reply": 0.06, "image": 0.04, "stripped": 0.12, "share_post": 0.03, "referral": 0.02}
    codes: ClassVar = {
        "send_throttled": (40100, "Too fast."),
        "send_error": (51002, "Later."),
        "send_refused": (40004, "No such conversation."),
    }
    rules: ClassVar = {"outside of the messaging window": "window", "are used up": "used_up"}

    def make(self, seed: int, habits: Settings, options: "Random") -> Played[Any, Any]:
        account = TikTokAccount(
            account_id=f"-000open{self.line.channel_id}",
            client_key=f"7{self.line.channel_id:018d}",
            client_secret=f"secret-{self.line.channel_id}",
            access_token=f"act.first{self.line.channel_id}",
            refresh_token=f"rft.first{self.line.channel_id}",
        )
        self._hours = options.choice((2.0, 9.0, 24.0))
        return TikTokSimulator([account], seed=seed, settings=habits)

    def pace(self, options: "Random") -> tuple[int, int]:
        per_second = options.choice((2, 10, 20))
        self.parent_id = self.account.client_key
        self.settings |= {"messages_per_second": per_second, "client_key": self.account.client_key}
        return per_second, 16

    @property
    def api(self) -> Calls:
        assert isinstance(self.sim, TikTokSimulator)
        return self.sim.api

    def can_tell(self, platform_id: str) -> bool:
        assert isinstance(self.sim, TikTokSimulator)
        return self.sim.history.has(self.now().account_id, platform_id)

    def life(self) -> tuple[int, int | None]:
        given = self.world.morning - _EARLY_MS
        return given, given + round(self._hours * 3_600_000)

    def credentials(self) -> dict[str, str]:
        account = self.now()
        return {
            "access_token": account.access_token,
            "refresh_token": account.refresh_token,
            "client_secret": account.client_secret,
        }

    def key(self, number: int) -> str:
        return f"c0NvErSaTiOn+000{number}=="

    def revoke(self) -> None:
        """The owner takes the app's access away: calls are refused, and a webhook says so."""
        assert isinstance(self.sim, TikTokSimulator)
        self.sim.remove_authorization(self.external_id)

    def restore(self) -> None:
        assert isinstance(self.sim, TikTokSimulator)
        number = self.sim.next_id()
        self.sim._renewed(self.external_id, f"act.{number}", f"rft.{number}")


class SmsVoice(PlayedVoice):
    """By telephone numbers, so that people are known by each way to write theirs, and may be written to
    first."""

    platform = "sms"
    starts = True
    knows_ours = True
    echoes = False
    kinds: ClassVar = {"image": 0.04, "stop": 0.08, "start": 0.08}
    codes: ClassVar = {
        "send_throttled": (20429, "Too fast."),
        "send_error": (20503, "Later."),
        "send_refused": (21614, "Not a mobile number."),
    }
    rules: ClassVar = {"unsubscribed": "opted_out"}

    def make(self, seed: int, habits: Settings, options: "Random") -> Played[Any, Any]:
        account = SmsAccount(
            account_id=f"+180055501{self.line.channel_id}",
            account_sid=f"AC{self.line.channel_id:032x}",
            auth_token=f"token-{self.line.channel_id}",
        )
        return SmsSimulator([account], seed=seed, settings=habits)

    def pace(self, options: "Random") -> tuple[int, int]:
        per_second = options.choice((3, 20, 80))
        self.parent_id = self.account.account_sid
        self.settings |= {"segments_per_second": per_second, "account_sid": self.account.account_sid}
        return per_second, 16

    @property
    def api(self) -> Calls:
        assert isinstance(self.sim, SmsSimulator)
        return self.sim.api

    def is_signal(self, content: str) -> bool:
        return False

    def credentials(self) -> dict[str, str]:
        return {"auth_token": self.now().auth_token}

    def key(self, number: int) -> str:
        # Those of the line alone: who opts out does so of one sender.
        return f"1555{self.line.channel_id}0{number:02d}"

    def restore(self) -> None:
        # The token signs what comes in, too: another one would be refused until somebody enters it.
        self.sim.expire_token(self.external_id, expired=False)


class GoogleVoice(PlayedVoice):
    """Business Messages: each send has a name of ours, so that a second one is refused as known."""

    platform = "google-business"
    knows_ours = True
    echoes = False
    kinds: ClassVar = {"image": 0.04, "suggestion": 0.04, "live_agent": 0.02}
    codes: ClassVar = {
        "send_throttled": (429, "Too fast."),
        "send_error": (503, "Later."),
        "send_refused": (404, "No such conversation."),
    }
    rules: ClassVar = {"already exists": "known"}

    def make(self, seed: int, habits: Settings, options: "Random") -> Played[Any, Any]:
        account = GoogleAccount(
            account_id=f"brands/b{self.line.channel_id}/agents/a{self.line.channel_id}",
            access_token=f"token-{self.line.channel_id}",
            partner_key=f"partner-{self.line.channel_id}",
            client_token=f"client-{self.line.channel_id}",
        )
        return MessagesSimulator([account], seed=seed, settings=habits)

    def pace(self, options: "Random") -> tuple[int, int]:
        per_second = options.choice((2, 20, 80))
        self.settings |= {"messages_per_second": per_second}
        return per_second, 16

    @property
    def api(self) -> Calls:
        assert isinstance(self.sim, MessagesSimulator)
        return self.sim.api

    def authorise(self, request: Request) -> None:
        assert isinstance(self.sim, MessagesSimulator)
        self.sim.api.authorised(request)

    def credentials(self) -> dict[str, str]:
        account = self.now()
        return {
            "access_token": account.access_token,
            "partner_key": account.partner_key,
            "client_token": account.client_token,
        }

    def key(self, number: int) -> str:
        return f"3b1f0a52-74f5-4c0e-9b83-00000000000{number % 10}"


VOICES: Final = {
    each.platform: each for each in (MessengerVoice, InstagramVoice, TikTokVoice, SmsVoice, GoogleVoice)
}
