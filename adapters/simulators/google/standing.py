"""Played Google as the commands use it: implements `adapters.port.StandIn`, once for each kind of account."""

import secrets
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from adapters.port import Play
from adapters.simulators.google.accounts import GoogleAccount
from adapters.simulators.google.messages import MessagesSimulator
from adapters.simulators.google.reviews import ReviewsSimulator
from adapters.simulators.google.signing import key_id, new_private_key
from adapters.simulators.playing.standing import access_token, accounts_of, digits, making_of

_FIELD = "resource_name"


class MessagesStandIn:
    """An agent of Business Messages."""

    def new_keys(self) -> dict[str, str]:
        return {
            _FIELD: f"brands/{secrets.token_hex(8)}/agents/{secrets.token_hex(8)}",
            "partner_key": secrets.token_urlsafe(24),
            "client_token": secrets.token_urlsafe(18),
            "access_token": access_token(),
        }

    def demo_keys(self) -> dict[str, str]:
        return {
            _FIELD: "brands/simulated/agents/simulated",
            "partner_key": "simulated-google-partner-key",
            "client_token": "simulated-google-client-token",
            "access_token": "SIMULATED-GOOGLE-TOKEN",
        }

    def simulator(self, play: Play) -> MessagesSimulator:
        return MessagesSimulator(accounts_of(play, GoogleAccount, _FIELD), **making_of(play))

    def example(self) -> Mapping[str, Any]:
        return {"from": "3b1f0a52-74f5-4c0e-9b83-5d7a9f0c1e20", "text": "Is this in stock?"}


class ReviewsStandIn:
    """A Business Profile. Its access token is had for the refresh token, as a real one's is. New keys come
    with Google's own key, so that others can sign pushes too."""

    def new_keys(self) -> dict[str, str]:
        private_key = new_private_key()
        return {
            _FIELD: f"accounts/{digits(21)}/locations/{digits(19)}",
            "push_email": f"pusher-{secrets.token_hex(4)}@simulated.iam.gserviceaccount.com",
            "push_audience": f"https://push.example/{secrets.token_hex(8)}",
            "refresh_token": "1//SIM" + secrets.token_urlsafe(32),
            "client_id": f"{digits(12)}.apps.googleusercontent.com",
            "client_secret": secrets.token_urlsafe(18),
            "push_private_key": private_key,
            "push_key_id": key_id(private_key),
        }

    def demo_keys(self) -> dict[str, str]:
        return {
            _FIELD: "accounts/100000000000000000000/locations/1000000000000000000",
            "push_email": "pusher@simulated.iam.gserviceaccount.com",
            "push_audience": "https://push.example/simulated",
            "refresh_token": "simulated-google-refresh-token",
            "client_id": "simulated-google-client",
            "client_secret": "simulated-google-client-secret",
        }

    def simulator(self, play: Play) -> ReviewsSimulator:
        # What the business is never given itself is made here.
        accounts = [
            structs.replace(each, access_token=f"ya29.SIM{secrets.token_urlsafe(32)}")
            for each in accounts_of(play, GoogleAccount, _FIELD)
        ]
        return ReviewsSimulator(accounts, **making_of(play))

    def example(self) -> Mapping[str, Any]:
        return {"from": "reviews/AbFvOqSimulated1", "text": "It came late.", "kind": "review"}
