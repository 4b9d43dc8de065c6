"""The ready system of `mijra dev`: a tenant, its owner, an account on each platform, and what is remembered.

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct, structs, to_builtins

from adapters.port import Adapter, StandIn
from adapters.registry import adapters
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


Keys = dict[str, str]
"""One account's keys on a platform, by the names of what its adapter says that an account consists of."""


class Remembered(Struct, frozen=True, kw_only=True):
    """What dev.json holds. `accounts` are keys by platform; `token` is None until the first start has got
    that far."""

    password: str
    accounts: dict[str, Keys]
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


class Connected(Struct, frozen=True, kw_only=True):
    """A channel and the address that its platform posts to."""

    id: int
    webhook_url: str


class Prepared(Struct, frozen=True, kw_only=True):
    """`channels` are by the name that their platform is played by."""

    token: str
    owner_id: int
    pusher: PusherAccess
    channels: dict[str, Connected]


class Ready(Struct, frozen=True, kw_only=True):
    """The line that `mijra dev --json` prints: these members and, in place of `platforms`, one for each
    platform under its name and its other spellings, with the account's keys, `account_id` (the one of them
    that deliveries name it by), `channel_id` (its id in the API), `webhook_url` (where its deliveries are
    posted), `simulator_url` (what is called to send) and the address of each listener (`smtp_url`). Names and
    order are a contract with scripts."""

    base_url: str
    ws_url: str
    operator_url: str
    simulator_url: str
    tenant: str
    token: str
    agent: Person
    platforms: dict[str, dict[str, Any]]
    database_url: str
    pusher: PusherAccess

    def line(self) -> bytes:
        members = to_builtins(self)
        platforms: dict[str, Any] = members.pop("platforms")
        database_url = members.pop("database_url")
        named = {name: keys for played, keys in platforms.items() for name in spellings(played)}
        return msgspec.json.encode({**members, **named, "database_url": database_url})

    @classmethod
    def read(cls, line: bytes) -> "Ready":
        """Raises msgspec.DecodeError for another line."""
        members = msgspec.json.decode(line, type=dict[str, Any])
        known = {name: members.get(name) for name in cls.__struct_fields__}
        known["platforms"] = {name: members[name] for name in stand_ins() if name in members}
        return msgspec.convert(known, cls)


def remember(data_dir: Path) -> Remembered:
    """What is known from earlier starts, made and written down first where there was none.

    Written before anything is created with it, so that a crash in between cannot lose the password. Raises
    InvalidInput when the file is not what was written."""
    path = data_dir / FILE_NAME
    known = Remembered(password=new_password(), accounts={})
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Remembered)
    except FileNotFoundError:
        pass
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{path} is damaged ({error}): remove it, and new keys are made.") from error
    # An account that is known keeps its keys, and gets those that an earlier version did not make.
    accounts = {
        name: {**each.new_keys(), **known.accounts.get(name, {})} for name, each in stand_ins().items()
    }
    made = structs.replace(known, accounts={**known.accounts, **accounts})
    if path.exists() and _names(made) == _names(known):
        return known
    write_down(data_dir, made)
    return made


def _names(remembered: Remembered) -> dict[str, set[str]]:
    return {name: set(keys) for name, keys in remembered.accounts.items()}


def stand_ins() -> dict[str, StandIn]:
    """How platforms are played, by name, for those that are; one with several kinds of accounts has several
    names."""
    return {name: stand_in for each in adapters().values() for name, stand_in in each.stand_ins().items()}


def played_by(name: str) -> Adapter:
    """The adapter of what is played by this name."""
    return next(each for each in adapters().values() if name in each.stand_ins())


def spellings(name: str) -> tuple[str, ...]:
    """All names of what is played by this one."""
    platform = played_by(name).platform
    return (name, *platform.aliases) if name == platform.name else (name,)


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

    def __init__(
        self, landlord: Api, data_dir: Path, remembered: Remembered, accounts: Mapping[str, Keys]
    ) -> None:
        self._landlord = landlord
        self._data_dir = data_dir
        self._remembered = remembered
        self._accounts = accounts

    async def prepare(self, simulator_urls: Mapping[str, str]) -> Prepared:
        """Tenant, owner, token, a channel for each platform."""
        await self._have_tenant()
        token, owner_id = await self._have_token()
        async with Api(self._landlord.base_url, token) as owner:
            channels = await owner.items(f"/api/{TENANT}/channels")
            for name, keys in self._accounts.items():
                await self._have_channel(owner, channels, name, keys, simulator_urls[name])
            app = await owner.get(f"/api/{TENANT}/push-app")
            connected = await self._connected(owner)
        parts = urlsplit(self._landlord.base_url)
        return Prepared(
            token=token,
            owner_id=owner_id,
            pusher=PusherAccess(**app, host=parts.hostname or "", port=parts.port or 80),
            channels=connected,
        )

    async def _connected(self, owner: Api) -> dict[str, Connected]:
        found = {}
        channels = await owner.items(f"/api/{TENANT}/channels")
        for name, keys in self._accounts.items():
            platform = played_by(name).platform
            channel = _channel_of(channels, name, keys)
            assert channel is not None, "it was connected just now"
            url = f"{self._landlord.base_url}/api/webhooks/{platform.name}"
            if platform.delivery_bytes_max:
                # Large deliveries, and those that nobody signs, are taken at the account's own address alone.
                health = await owner.get(f"/api/{TENANT}/channels/{channel['id']}/health")
                url = health["webhook_url"]
            found[name] = Connected(id=channel["id"], webhook_url=url)
        return found

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

    async def _have_channel(
        self, owner: Api, channels: Sequence[dict[str, Any]], name: str, keys: Keys, simulator_url: str
    ) -> None:
        platform = played_by(name).platform
        connection = platform.connection
        external_id = keys[connection.account.name]
        credentials = {each: keys[each] for each in connection.secret_names if each in keys}
        ours = _channel_of(channels, name, keys)
        if ours is not None:
            settings = {each: ours["settings"].get(each) for each in connection.setting_names}
            changes = {
                "status": "active",
                "settings": {**settings, "base_url": simulator_url},
                "credentials": credentials,
            }
            await owner.put(f"/api/{TENANT}/channels/{ours['id']}", changes)
            return
        await owner.post(
            f"/api/{TENANT}/channels",
            {
                "platform": platform.name,
                "name": f"{platform.label if name == platform.name else name} (simulated)",
                "external_id": external_id,
                "business_account_id": keys.get(connection.parent.name) if connection.parent else None,
                "credentials": credentials,
                "settings": {"base_url": simulator_url},
            },
        )


def _channel_of(channels: Sequence[dict[str, Any]], name: str, keys: Keys) -> dict[str, Any] | None:
    platform = played_by(name).platform
    account = (platform.name, keys[platform.connection.account.name])
    return next((each for each in channels if (each["platform"], each["external_id"]) == account), None)


async def account_of(name: str, simulator_url: str) -> Keys | None:
    """The first account of a simulator elsewhere; None when what is there is another stand-in, which cannot
    be asked: whatever it answers. Raises Unavailable when nobody answers."""
    connection = played_by(name).platform.connection
    answer = await _call_simulator("GET", f"{simulator_url}/__sim/accounts")
    try:
        accounts = msgspec.json.decode(answer.content, type=list[dict[str, Any]])
    except msgspec.DecodeError:
        return None
    if not accounts or connection.account.name not in accounts[0]:
        return None
    fields = [connection.account, *connection.credentials]
    fields += [connection.parent] if connection.parent is not None else []
    found = {field.name: accounts[0].get(field.name) for field in fields}
    # Of secrets that this account has none of, some simulators say that they are empty.
    return msgspec.convert({name: value for name, value in found.items() if value}, Keys)


async def connect_simulator(simulator_url: str, callback_url: str) -> None:
    """Tell a simulator elsewhere where webhooks go. Raises Unavailable when nobody answers, and MijraError
    when it refuses."""
    url = f"{simulator_url}/__sim/connect"
    answer = await _call_simulator("POST", url, {"callback_url": callback_url})
    if answer.status_code != 200:
        raise MijraError(f"The simulator refused {callback_url} ({answer.status_code}): {answer.text:.200}")


async def _call_simulator(method: str, url: str, body: object = None) -> httpx.Response:
    try:
        async with httpx.AsyncClient(timeout=SIMULATOR_SECONDS_MAX, trust_env=False) as client:
            content = msgspec.json.encode(body) if body is not None else None
            return await client.request(method, url, content=content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"No simulator answers at {url} ({type(error).__name__}).") from error


async def _owner_id(api: Api) -> int:
    users = await api.items(f"/api/{TENANT}/users")
    owner_id: int = next(user["id"] for user in users if user["email"] == EMAIL)
    return owner_id
