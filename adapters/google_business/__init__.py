"""Google Business: agents of Business Messages, and reviews of Business Profiles. `ADAPTER` is what the
registry takes.

An account is one of the two, and its name says which: `brands/B/agents/A` or `accounts/A/locations/L`.

describing  what both can do, and what an account is made of       naming  names and times of resources
receiver    handshake, whom to believe, bytes into events          sending  sends into calls
messages    Business Messages' webhooks                            composing  its texts, pictures and cards
notifications, reviews   pushes of Pub/Sub, and what they name     calling, tokens, errors  Google's APIs
oidc, keys  the proof that a push is Google's                      account  does it work?
services    keeping keys, and `catching` what nobody told of
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from adapters.clock import wall_ms
from adapters.google_business.account import check_account
from adapters.google_business.calling import GoogleCalls
from adapters.google_business.describing import PLATFORM
from adapters.google_business.errors import classify
from adapters.google_business.keys import PublicKeys
from adapters.google_business.naming import is_location
from adapters.google_business.receiver import GoogleReceiver
from adapters.google_business.reviews import READ_SECONDS_MAX, ReviewReader
from adapters.google_business.sending import GoogleSender, fit_for
from adapters.google_business.services import services_of
from adapters.meta.media import AddressedMedia
from adapters.port import Account, Adapter, Checked, ErrorClass, Fitted, Outlet, StandIn, Tools
from engine.domain.outbound import Send

if TYPE_CHECKING:
    from adapters.port import OpenMediaSource, OpenReader, OpenSender, Sender
    from adapters.service import AccountService, Service, ServiceTools
    from engine.ports import Receiver

REVIEWS = "google-reviews"
"""What a played profile is called, beside a played agent that has the platform's name."""

_READ_CONNECTIONS_MAX = 64


class GoogleBusiness(Adapter):
    """Implements `adapters.port.Adapter`."""

    platform = PLATFORM

    def __init__(self) -> None:
        self.keys = PublicKeys()

    def receiver(self) -> "Receiver":
        return GoogleReceiver(PLATFORM.name, PLATFORM.aliases, self.keys)

    def reader(self, tools: Tools) -> "OpenReader":
        calls = GoogleCalls(tools.guard, connections_max=_READ_CONNECTIONS_MAX, seconds_max=READ_SECONDS_MAX)
        return ReviewReader(PLATFORM.name, calls, wall_ms)

    def services(self, tools: "ServiceTools") -> "Sequence[Service | AccountService]":
        return services_of(PLATFORM.name, self.keys, tools)

    def sender(self, tools: Tools) -> "OpenSender":
        return GoogleSender(PLATFORM.name, tools)

    def fit(self, sender: "Sender", send: Send, outlet: Outlet) -> Fitted:
        return fit_for(send, outlet)

    def media_source(self, tools: Tools) -> "OpenMediaSource":
        return AddressedMedia(PLATFORM.name)

    async def check(self, account: Account, tools: Tools) -> Checked:
        return await check_account(account, tools.guard)

    def classify(self, code: str) -> ErrorClass:
        return classify(code)[0]

    def stand_in(self) -> StandIn:
        # Imported here: a server that talks to the real platform plays none.
        from adapters.simulators.google.standing import MessagesStandIn

        return MessagesStandIn()

    def stand_ins(self) -> Mapping[str, StandIn]:
        from adapters.simulators.google.standing import ReviewsStandIn

        return {**super().stand_ins(), REVIEWS: ReviewsStandIn()}

    def takes_our_id(self, external_id: str) -> bool:
        """An answer to a review has an id of Google's alone."""
        return not is_location(external_id)


ADAPTER = GoogleBusiness()
