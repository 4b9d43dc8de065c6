"""Pusher's signatures: HMAC-SHA256 in hexadecimal, over a subscription or over a request to the server API.

Source: Pusher's "Authorizing users" and "HTTP API reference, Authentication", and what the client libraries
do. Compared in constant time, on bytes.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from gateway.push.pusher.apps import App

AGE_SECONDS_MAX: Final = 600
"""Of a request, in both directions: what Pusher itself allows for clocks that differ."""

VERSION: Final = "1.0"


def subscription_auth(app: App, socket_id: str, channel: str, channel_data: str | None) -> str:
    """The `auth` member of a subscription: the key and the signature."""
    signed = f"{socket_id}:{channel}" if channel_data is None else f"{socket_id}:{channel}:{channel_data}"
    return f"{app.key}:{_sign(app, signed.encode())}"


def subscription_is_signed(
    app: App, auth: str, socket_id: str, channel: str, channel_data: str | None
) -> bool:
    return _same(subscription_auth(app, socket_id, channel, channel_data), auth)


def request_problem(
    app: App, method: str, path: str, query: Sequence[tuple[str, str]], body: bytes, now_seconds: float
) -> str | None:
    """Why a request to the server API is not the app's own; None: it is. `query` is decoded."""
    given = dict(query)
    if len(given) != len(query):
        return "A parameter is given more than once."
    if given.get("auth_key") != app.key:
        return "auth_key is not this app's."
    if given.get("auth_version") != VERSION:
        return f"auth_version must be {VERSION}."
    timestamp = given.get("auth_timestamp", "")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 15):
        return "auth_timestamp must be seconds since 1970."
    if abs(now_seconds - int(timestamp)) > AGE_SECONDS_MAX:
        return f"auth_timestamp is more than {AGE_SECONDS_MAX} s away from the server's clock."
    if body or "body_md5" in given:
        digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if not _same(digest, given.get("body_md5", "")):
            return "body_md5 does not fit the body."
    if not _same(request_signature(app, method, path, query), given.get("auth_signature", "")):
        return "auth_signature does not fit the request."
    return None


def request_signature(app: App, method: str, path: str, query: Sequence[tuple[str, str]]) -> str:
    named = sorted((name.lower(), value) for name, value in query if name.lower() != "auth_signature")
    parameters = "&".join(f"{name}={value}" for name, value in named)
    return _sign(app, f"{method}\n{path}\n{parameters}".encode("utf-8", "surrogateescape"))


def _sign(app: App, text: bytes) -> str:
    return hmac.new(app.secret, text, hashlib.sha256).hexdigest()


def _same(right: str, given: str) -> bool:
    return hmac.compare_digest(right.encode(), given.encode("utf-8", "surrogateescape"))
