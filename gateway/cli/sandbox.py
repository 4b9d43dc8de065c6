"""The ready system of `mijra dev`: a tenant, its owner, a WhatsApp account, and what is remembered of them.

Why         A person who tries Mijra, a test that drives it and the demo need the same thing at once:
            something that works, and all keys to it.
Promises    The same data directory comes back with the same ids, password, keys and token. Each step looks
            first and then does what is missing, so a set-up that was cut off anywhere is finished by the next
            start.
Keeps       `<data_dir>/dev.json`, readable by its owner alone. If it is lost, what it held is made anew and
            put in force: the owner gets a new password, and another account is connected with new keys.
Leaves      starting and stopping to `gateway.cli.dev`. Everything here goes through the HTTP API.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct, structs

from adapters.simulators import WhatsAppAccount
from engine.errors import Conflicting, InvalidInput, MijraError, Unauthenticated, Unavailable
from gateway.cli.api import Api
from gateway.cli.asking import new_password

FILE_NAME: Final = "dev.json"
TENANT: Final = "demo"
EMAIL: Final = "agent@demo.example"
NAME: Final = "Demo Agent"
DEVICE: Final = "mijra dev"
SIMULATOR_SECONDS_MAX: Final = 15.0
"""Its handshake with the callback address is part of this."""


class Keys(Struct, frozen=True, kw_only=True):
    """One WhatsApp account's keys, under the names of the line that `mijra dev --json` prints."""

    app_secret: str
    verify_token: str
    phone_number_id: str
    waba_id: str
    access_token: str

    def account(self) -> WhatsAppAccount:
        """The same for the simulator. The number shown is one for fiction (NANPA's 555-01XX)."""
        return WhatsAppAccount(**structs.asdict(self), display_phone_number="15550100000")


class Remembered(Struct, frozen=True, kw_only=True):
    """What dev.json holds. `token` is None until the first start has got that far."""

    password: str
    whatsapp: Keys
    token: str | None = None


class Person(Struct, frozen=True, kw_only=True):
    id: int
    email: str
    password: str


class PusherAccess(Struct, frozen=True, kw_only=True):
    """What a Pusher library is configured with."""

    app_id: str
    key: str
    secret: str
    host: str
    port: int


class Ready(Struct, frozen=True, kw_only=True):
    """The line that `mijra dev --json` prints. Names and order are a contract with scripts."""

    base_url: str
    ws_url: str
    operator_url: str
    simulator_url: str
    tenant: str
    token: str
    agent: Person
    whatsapp: Keys
    database_url: str
    pusher: PusherAccess


def remember(data_dir: Path) -> Remembered:
    """What is known from earlier starts, made and written down first where there was none.

    Written before anything is created with it, so that a crash in between cannot lose the password. Raises
    InvalidInput when the file is not what was written."""
    path = data_dir / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Remembered)
    except FileNotFoundError:
        pass
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{path} is damaged ({error}): remove it, and new keys are made.") from error
    made = Remembered(password=new_password(), whatsapp=_new_keys())
    write_down(data_dir, made)
    return made


def write_down(data_dir: Path, remembered: Remembered) -> None:
    """Replace the file in one step; it is whole before and after."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / FILE_NAME
    draft = path.with_name(f"{FILE_NAME}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(remembered)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class Sandbox:
    """Puts the system in order, call by call. `landlord` is the local operator's way in."""

    def __init__(self, landlord: Api, data_dir: Path, remembered: Remembered, whatsapp: Keys) -> None:
        self._landlord = landlord
        self._data_dir = data_dir
        self._remembered = remembered
        self._whatsapp = whatsapp

    async def prepare(self, simulator_url: str) -> tuple[str, int, PusherAccess]:
        """Tenant, owner, token, channel. Returns the token, the owner's id, and the app for Pusher."""
        await self._have_tenant()
        token, owner_id = await self._have_token()
        async with Api(self._landlord.base_url, token) as owner:
            await self._have_channel(owner, simulator_url)
            app = await owner.get(f"/api/{TENANT}/push-app")
        parts = urlsplit(self._landlord.base_url)
        return token, owner_id, PusherAccess(**app, host=parts.hostname or "", port=parts.port or 80)

    async def _have_tenant(self) -> None:
        owner = {"email": EMAIL, "name": NAME, "password": self._remembered.password}
        body = {"slug": TENANT, "name": "Demo", "owner": owner}
        with suppress(Conflicting):  # there already, and complete
            await self._landlord.post("/api/landlord/tenants", body)

    async def _have_token(self) -> tuple[str, int]:
        token = self._remembered.token
        if token is not None:
            async with Api(self._landlord.base_url, token) as owner:
                try:
                    return token, await _owner_id(owner)
                except Unauthenticated:
                    pass  # revoked, or the database is another one
        login = await self._log_in()
        async with Api(self._landlord.base_url, login["token"]) as owner:
            made = await owner.post(f"/api/{TENANT}/api-tokens", {"name": DEVICE})
            await owner.post("/api/landlord/auth/logout")
        token = made["token"]
        self._remembered = structs.replace(self._remembered, token=token)
        write_down(self._data_dir, self._remembered)
        return token, login["user"]["id"]

    async def _log_in(self) -> Any:
        body = {
            "email": EMAIL,
            "password": self._remembered.password,
            "tenant": TENANT,
            "device": DEVICE,
        }
        async with Api(self._landlord.base_url, None) as anybody:
            try:
                return await anybody.post("/api/landlord/auth/login", body)
            except Unauthenticated:
                await self._set_password()
                return await anybody.post("/api/landlord/auth/login", body)

    async def _set_password(self) -> None:
        """The tenant is older than dev.json: its owner gets the password that we know."""
        owner_id = await _owner_id(self._landlord)
        await self._landlord.put(f"/api/{TENANT}/users/{owner_id}", {"password": self._remembered.password})

    async def _have_channel(self, owner: Api, simulator_url: str) -> None:
        keys = self._whatsapp
        credentials = {
            "access_token": keys.access_token,
            "app_secret": keys.app_secret,
            "verify_token": keys.verify_token,
        }
        channels = await owner.items(f"/api/{TENANT}/channels")
        ours = [each for each in channels if each["external_id"] == keys.phone_number_id]
        if ours:
            changes = {
                "status": "active",
                "settings": {**_settable(ours[0]["settings"]), "base_url": simulator_url},
                "credentials": credentials,
            }
            await owner.put(f"/api/{TENANT}/channels/{ours[0]['id']}", changes)
            return
        await owner.post(
            f"/api/{TENANT}/channels",
            {
                "platform": "whatsapp",
                "name": "WhatsApp (simulated)",
                "external_id": keys.phone_number_id,
                "business_account_id": keys.waba_id,
                "credentials": credentials,
                "settings": {"base_url": simulator_url},
            },
        )


async def account_of(simulator_url: str) -> Keys | None:
    """The first account of a simulator elsewhere; None when what is there is another stand-in, which cannot
    be asked. Raises Unavailable when nobody answers."""
    answer = await _call_simulator("GET", f"{simulator_url}/__sim/accounts")
    if answer is None:
        return None
    return msgspec.convert(answer[0], Keys)


async def connect_simulator(simulator_url: str, keys: Keys, callback_url: str) -> None:
    """Tell a simulator elsewhere where webhooks go. Does nothing for another stand-in."""
    body = {"callback_url": callback_url, "phone_number_id": keys.phone_number_id}
    await _call_simulator("POST", f"{simulator_url}/__sim/connect", body)


async def _call_simulator(method: str, url: str, body: object = None) -> Any:
    try:
        async with httpx.AsyncClient(timeout=SIMULATOR_SECONDS_MAX, trust_env=False) as client:
            content = msgspec.json.encode(body) if body is not None else None
            answer = await client.request(method, url, content=content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"No simulator answers at {url} ({type(error).__name__}).") from error
    if answer.status_code == 404:
        return None
    try:
        found = answer.json()
    except ValueError:
        return None
    if answer.status_code != 200:
        raise MijraError(f"The simulator refused {method} {url}: {found.get('message', answer.status_code)}")
    return found


async def _owner_id(api: Api) -> int:
    users = await api.items(f"/api/{TENANT}/users")
    owner_id: int = next(user["id"] for user in users if user["email"] == EMAIL)
    return owner_id


def _settable(settings: dict[str, Any]) -> dict[str, Any]:
    """What a PUT takes of a channel's settings; the rest is the server's own."""
    return {name: settings[name] for name in ("api_version", "messages_per_second") if name in settings}


def _new_keys() -> Keys:
    def number(digits: int) -> str:
        return str(10 ** (digits - 1) + secrets.randbelow(9 * 10 ** (digits - 1)))

    return Keys(
        app_secret=secrets.token_hex(16),
        verify_token=secrets.token_urlsafe(18),
        phone_number_id=number(15),
        waba_id=number(15),
        access_token="SIM" + secrets.token_urlsafe(48),
    )
