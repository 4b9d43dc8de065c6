"""One complete system for the API's tests: the real server on a real PostgreSQL, spoken to over real HTTP.

It runs in a thread with a trio loop of its own, as it would in a process of its own, so the tests are plain
synchronous clients. Tests share the system and make tenants of their own where they need to be alone.
"""

import hashlib
import hmac
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, Final

import httpx
import pytest
import trio

from gateway.boot import running
from gateway.settings import Settings
from storage.bridge import Bridge
from storage.databases import DatabaseServer
from tests.patience import PATIENCE_SECONDS

APP_SECRET = "the app's secret"
PASSWORD = "correct horse battery"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For these clients: nothing is encrypted here, and reading the authorities takes 30 ms for each."""

http: Final = SimpleNamespace(
    **{
        name: partial(getattr(httpx, name), timeout=PATIENCE_SECONDS, verify=NO_TLS)
        for name in ("get", "post", "request")
    }
)
"""httpx's, for single calls."""

_numbers = count(1)


class Person:
    """A client with one user's token in one tenant."""

    def __init__(self, system: "System", tenant: str, token: str, user_id: int) -> None:
        self.tenant = tenant
        self.token = token
        self.user_id = user_id
        self.http = system.client(f"/api/{tenant}", token)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json"] = body
        return self.http.request(method, path, **options)

    def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The data of a call that must succeed."""
        answer = self.call(method, path, body, **options)
        assert answer.status_code < 300, (answer.status_code, answer.text)
        envelope = answer.json()
        assert envelope["success"] is True
        assert set(envelope) == {"success", "message", "data"}
        return envelope["data"]

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str]:
        """Status and code of a call that must be refused, in the envelope."""
        answer = self.call(method, path, body, **options)
        envelope = answer.json()
        assert answer.status_code >= 400, answer.text
        assert envelope["success"] is False
        assert {"message", "code", "errors"} <= set(envelope)
        return answer.status_code, envelope["code"]


class Business:
    """A tenant with an owner and a connected WhatsApp account; other people join when a test wants them."""

    def __init__(self, system: "System", placement: str) -> None:
        self.system = system
        self.slug = f"biz-{next(_numbers)}"
        created = system.landlord_ok(
            "POST",
            "/tenants",
            {
                "slug": self.slug,
                "name": "Business",
                "placement": placement,
                "timezone": "Asia/Riyadh",
                "owner": {"email": self.email("owner"), "name": "Owner", "password": PASSWORD},
            },
        )
        self.id: int = created["id"]
        self.owner = self.person("owner", created["owner_id"])
        self.number_id = str(10_000_000 + next(_numbers))
        self.channel = self.connect(self.number_id, "Main number")

    def connect(self, number_id: str | None = None, name: str = "Other number") -> dict[str, Any]:
        """A connected WhatsApp number."""
        connected: dict[str, Any] = self.owner.ok(
            "POST",
            "/channels",
            {
                "platform": "whatsapp",
                "name": name,
                "external_id": number_id or str(10_000_000 + next(_numbers)),
                "business_account_id": f"9{self.number_id}",
                "credentials": {"access_token": "an-access-token", "app_secret": APP_SECRET},
                # Nobody listens there: what is sent stays queued, which is all the API can promise.
                "settings": {"base_url": "http://127.0.0.1:9"},
            },
        )
        return connected

    @cached_property
    def admin(self) -> Person:
        return self._added("admin", "admin")

    @cached_property
    def agent(self) -> Person:
        return self._added("agent", "agent")

    @cached_property
    def colleague(self) -> Person:
        return self._added("colleague", "agent")

    def _added(self, name: str, role: str) -> Person:
        body = {"email": self.email(name), "name": name.title(), "role": role, "password": PASSWORD}
        return self.person(name, self.owner.ok("POST", "/users", body)["id"])

    def person(self, name: str, user_id: int) -> Person:
        """With a token that the landlord makes: a login costs a tenth of a second of hashing."""
        body = {"tenant": self.slug, "email": self.email(name), "name": "test"}
        made = self.system.landlord_ok("POST", "/tokens", body)
        return Person(self.system, self.slug, made["token"], user_id)

    def email(self, name: str) -> str:
        return f"{name}@{self.slug}.example"

    def log_in(self, name: str, *, everywhere: bool = False) -> Person:
        """With a token for this tenant alone, or for all of the user's."""
        body = {"email": self.email(name), "password": PASSWORD}
        if not everywhere:
            body["tenant"] = self.slug
        url = f"{self.system.base_url}/api/landlord/auth/login"
        answer = httpx.post(url, json=body, timeout=PATIENCE_SECONDS, verify=NO_TLS)
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        return Person(self.system, self.slug, data["token"], data["user"]["id"])

    def customer_writes(
        self,
        number: str | None,
        text: str,
        *,
        user_id: str | None = None,
        name: str | None = None,
        channel: dict[str, Any] | None = None,
    ) -> None:
        """A signed delivery of one text message, answered 200. On another channel than the first, say
        which."""
        channel = channel or self.channel
        sender = {key: each for key, each in (("wa_id", number), ("user_id", user_id)) if each is not None}
        origin = {
            key: each for key, each in (("from", number), ("from_user_id", user_id)) if each is not None
        }
        value = {
            "messaging_product": "whatsapp",
            "metadata": {
                "display_phone_number": "966500000000",
                "phone_number_id": channel["external_id"],
            },
            "contacts": [{"profile": {"name": name or f"Customer {number or user_id}"}, **sender}],
            "messages": [
                {
                    **origin,
                    "id": f"wamid.{self.number_id}.{next(_numbers)}",
                    "timestamp": str(int(time.time())),
                    "type": "text",
                    "text": {"body": text},
                }
            ],
        }
        self.deliver(value, channel)

    def deliver(self, value: dict[str, Any], channel: dict[str, Any]) -> None:
        """A signed delivery of one change, answered 200, as the platform makes it: again while it is asked to
        come later."""
        entry = {"id": f"9{self.number_id}", "changes": [{"field": "messages", "value": value}]}
        raw = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
        signature = hmac.new(APP_SECRET.encode(), raw, hashlib.sha256).hexdigest()
        path = channel["webhook_url"].partition("/api/")[2]
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = httpx.post(
                f"{self.system.base_url}/api/{path}",
                content=raw,
                headers={"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json"},
                timeout=PATIENCE_SECONDS,
                verify=NO_TLS,
            )
            if answer.status_code != 503 or time.monotonic() > until:
                break
            time.sleep(int(answer.headers["Retry-After"]))
        assert answer.status_code == 200, answer.text

    def conversation(self, text: str = "hello") -> dict[str, Any]:
        """A new conversation with a new customer, as the owner sees it."""
        number = f"9665{next(_numbers):08d}"
        self.customer_writes(number, text)
        found = self.owner.ok("GET", "/conversations", params={"search": number, "limit": 1})["items"]
        assert len(found) == 1, found
        result: dict[str, Any] = found[0]
        return result


class System:
    """The running server and its landlord token."""

    def __init__(self, dsn: str, data_dir: Path, *, prefix: str = "api", **settings: Any) -> None:
        self.settings = Settings(
            data_dir=data_dir,
            database_url=dsn,
            database_prefix=f"{prefix}_{os.getpid()}",
            port=0,
            operator_port=0,
            body_bytes_max=64 * 1024,
            media_bytes_max=512 * 1024,
            **settings,
        )
        self._answer: SimpleQueue[BaseException | tuple[str, str]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="api system")
        self._clients: list[httpx.Client] = []
        self.base_url = ""
        self.local_token = ""

    def _run(self) -> None:
        try:
            trio.run(self._hold)
        except BaseException as error:  # noqa: BLE001  handed to the thread that waits
            self._answer.put(error)

    async def _hold(self) -> None:
        self._enough = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with running(self.settings) as system:
                self._answer.put((system.base_url, system.local_token))
                await self._enough.wait()
        finally:
            await self._drop_databases()

    async def _drop_databases(self) -> None:
        assert self.settings.database_url is not None
        with trio.CancelScope(shield=True):
            async with Bridge() as bridge:
                prefix = f"{self.settings.database_prefix}_"
                async with DatabaseServer(bridge, self.settings.database_url, prefix=prefix) as server:
                    for database in await server.databases():
                        await server.drop_database(database)

    def __enter__(self) -> "System":
        self._thread.start()
        answer = self._answer.get()
        if isinstance(answer, BaseException):
            raise answer
        self.base_url, self.local_token = answer
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        self._token.run_sync_soon(self._enough.set)
        self._thread.join()

    def client(self, path: str, token: str) -> httpx.Client:
        """A client that is closed with the system."""
        client = httpx.Client(
            base_url=f"{self.base_url}{path}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=PATIENCE_SECONDS,
            verify=NO_TLS,
        )
        self._clients.append(client)
        return client

    def landlord(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json"] = body
        headers = {"Authorization": f"Bearer {self.local_token}"}
        url = f"{self.base_url}/api/landlord{path}"
        return httpx.request(method, url, headers=headers, timeout=PATIENCE_SECONDS, verify=NO_TLS, **options)

    def landlord_ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        answer = self.landlord(method, path, body, **options)
        assert answer.status_code < 300, answer.text
        return answer.json()["data"]


@pytest.fixture(scope="session")
def api_system(postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(postgres_dsn, tmp_path_factory.mktemp("api")) as system:
        yield system


@pytest.fixture(scope="session")
def business(api_system: System) -> Business:
    """The tenant that most tests share; it has a database of its own."""
    return Business(api_system, "own")


@pytest.fixture(scope="session")
def neighbour(api_system: System) -> Business:
    """Another tenant, pooled."""
    return Business(api_system, "pooled")


@pytest.fixture
def new_business(api_system: System) -> Callable[[], Business]:
    """For tests that change what others rely on."""
    return lambda: Business(api_system, "pooled")
