"""How the command line on this machine finds the running server and is let in."""

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from engine.errors import MijraError
from engine.reading import Login, Token
from gateway.authentication import hash_secret
from gateway.boot.clock import wall_ms
from gateway.boot.stores import Stores

SERVER_FILE: Final = "server.json"
LOCAL_LOGIN: Final = "local-operator@mijra.invalid"


class LocalOperator:
    """A landlord's token that is good while this process lives, and the file that holds it."""

    def __init__(self, stores: Stores, data_dir: Path) -> None:
        self._stores = stores
        self._file = data_dir / SERVER_FILE
        self._token: Token | None = None

    async def let_in(self, base_url: str, operator_url: str) -> str:
        """Write the file; the token in it. Tokens of earlier processes end. Raises StoreUnavailable,
        OSError."""
        token, secret = await self._make_token()
        self._token = token
        text = f"{token.id}|{secret}"
        await trio.to_thread.run_sync(_write, self._file, base_url, operator_url, text)
        return text

    def forget(self) -> None:
        """Take the file away."""
        with suppress(FileNotFoundError):
            self._file.unlink()

    async def shut_out(self) -> None:
        """End the token."""
        if self._token is not None:
            with suppress(MijraError):
                await self._stores.landlord.revoke_token(self._token.id, wall_ms())

    async def _make_token(self) -> tuple[Token, str]:
        landlord, ids = self._stores.landlord, self._stores.ids
        now = wall_ms()
        login: Login | None = await landlord.login_by_email(LOCAL_LOGIN)
        if login is None:
            login = await landlord.create_login(
                user_id=ids(),
                email=LOCAL_LOGIN,
                name="Local operator",
                password_hash="!",  # noqa: S106  no password fits this, so nobody logs in with it
                landlord=True,
                now=now,
            )
        await landlord.revoke_tokens_of(login.id, None, now)
        secret = secrets.token_urlsafe(32)
        token = Token(
            id=ids(),
            user_id=login.id,
            tenant_id=None,
            name=f"command line of {self._stores.node}",
            secret_hash=hash_secret(secret),
            abilities=("*",),
            expires_at=None,
            last_used_at=None,
            revoked_at=None,
            created_at=now,
        )
        await landlord.create_token(token)
        return token, secret


def _write(path: Path, base_url: str, operator_url: str, token: str) -> None:
    text = json.dumps(
        {"pid": os.getpid(), "base_url": base_url, "operator_url": operator_url, "token": token}
    )
    partial = path.with_suffix(".partial")
    with suppress(FileNotFoundError):
        partial.unlink()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
