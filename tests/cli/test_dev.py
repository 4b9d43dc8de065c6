"""`mijra dev --json` and the administrative commands, as processes on a real database."""

import base64
import hashlib
import hmac
import json
import re
import smtplib
import stat
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
import trio

from adapters.registry import adapters
from adapters.simulators.google.signing import new_private_key
from gateway.cli.sandbox import played_by, spellings, stand_ins
from tests.cli.commands import Started, call, log_of, mijra, started
from tests.cli.hiding import secrets_of, told
from tests.gateway.push_house import hear, opened, talk
from tests.patience import PATIENCE_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

KEYS = {
    "base_url": str,
    "ws_url": str,
    "operator_url": str,
    "simulator_url": str,
    "tenant": str,
    "token": str,
    "agent": dict,
    "database_url": str,
    "pusher": dict,
}
STAYS = ("tenant", "token", "agent")
PLAYED = stand_ins()
NAMES = {alias: name for name in PLAYED for alias in spellings(name)}


def _keys(line: dict[str, Any], platform: str) -> dict[str, Any]:
    """An account's keys without addresses, which change with the ports."""
    ours = ("account_id", "channel_id")
    return {name: value for name, value in line[platform].items() if not name.endswith((*ours, "_url"))}


async def _until(what: Any, seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true value of `await what()`."""
    with trio.fail_after(seconds):
        while not (found := await what()):  # noqa: ASYNC110  # it is another process that is waited for
            await trio.sleep(0.1)
    return found


async def _conversations(running: Started) -> list[dict[str, Any]]:
    line = running.line
    page = await call("GET", f"{line['base_url']}/api/demo/conversations", line["token"])
    items: list[dict[str, Any]] = page["data"]["items"]
    return items


async def _customer_writes(running: Started, text: str) -> None:
    body = {"from": "15550100123", "text": text}
    await call("POST", f"{running.line['simulator_url']}/__sim/messages", body=body)


async def _agent_answers(running: Started, conversation_id: int) -> None:
    """And the platform gets it exactly once."""
    line = running.line
    before = await call("GET", f"{line['simulator_url']}/__sim/ledger?kind=sends")
    path = f"{line['base_url']}/api/demo/conversations/{conversation_id}/messages"
    made = await call("POST", path, line["token"], {"type": "text", "content": "Yes, it is."})

    async def read() -> bool:
        page = await call("GET", path, line["token"])
        return any(m["id"] == made["data"]["id"] and m["sent_at"] for m in page["data"]["items"])

    await _until(read)
    after = await call("GET", f"{line['simulator_url']}/__sim/ledger?kind=sends")
    sent = after["items"][before["total"] :]
    assert [send["callback_data"] for send in sent] == [str(made["data"]["id"])]


async def test_dev_is_ready_when_it_says_so_and_comes_back_the_same(tmp_path: Path) -> None:
    """One JSON line with the agreed keys; after a restart the same ids, keys, token and conversations, and
    messages go both ways although the simulator has another port."""
    data_dir = tmp_path / "data"
    async with started(data_dir, "dev", "--json", "--port", "0") as first:
        assert {name: type(value) for name, value in first.line.items()} == KEYS | dict.fromkeys(NAMES, dict)
        assert set(first.line["agent"]) == {"id", "email", "password"}
        assert set(first.line["pusher"]) == {"app_id", "key", "secret", "host", "port"}
        assert await _conversations(first) == []  # the simulator is there and silent
        await _customer_writes(first, "Is this in stock?")
        (conversation,) = await _until(lambda: _conversations(first))
        await _agent_answers(first, conversation["id"])
    assert (first.status, first.rest) == (0, b"")
    assert stat.S_IMODE((data_dir / "dev.json").stat().st_mode) == 0o600
    assert not (data_dir / "server.json").exists()

    async with started(data_dir, "dev", "--json", "--port", "0") as second:
        assert {name: second.line[name] for name in STAYS} == {name: first.line[name] for name in STAYS}
        for platform in PLAYED:
            assert _keys(second.line, platform) == _keys(first.line, platform)
        assert second.line["pusher"]["secret"] == first.line["pusher"]["secret"]
        await _resumes(second)
        (again,) = await _conversations(second)
        assert again["id"] == conversation["id"]
        await _customer_writes(second, "And in blue?")
        await _until(lambda: _has_messages(second, 3))
        await _agent_answers(second, conversation["id"])
        await _administration_finds(second, data_dir)
    assert second.status == 0

    (data_dir / "dev.json").unlink()
    await _comes_back_without_its_notes(first, data_dir)


async def test_dev_carries_an_account_on_each_platform(tmp_path: Path) -> None:
    """Under its name, with all that a stand-in needs; on each, a customer's message comes in and the answer
    goes out, and what is told by the keys in the line is believed. None of those keys, nor what people log in
    with, stands in the log, however much is logged, or in clear in any file that is left."""
    data_dir = tmp_path / "data"
    async with started(data_dir, "dev", "--json", "--port", "0", MIJRA_LOG_LEVEL="debug") as running:
        line = running.line
        secrets = {**secrets_of(line), **await _people_use(running)}
        assert {played_by(name) for name in PLAYED} == set(adapters().values())
        for alias, name in NAMES.items():
            assert line[alias] == line[name]
        assert set(_keys(line, "facebook")) == {"app_secret", "verify_token", "page_id", "access_token"}
        assert set(_keys(line, "instagram")) == {"app_secret", "verify_token", "instagram_id", "access_token"}
        for platform, stand_in in PLAYED.items():
            assert set(_keys(line, platform)) == set(stand_in.new_keys())
            described = played_by(platform).platform
            assert line[platform]["account_id"] == line[platform][described.connection.account.name]
            posted_to = f"{line['base_url']}/api/webhooks/{described.name}"
            assert line[platform]["webhook_url"].startswith(posted_to)
            simulator = line[platform]["simulator_url"]
            await call("POST", f"{simulator}/__sim/messages", body=dict(stand_in.example()))
        conversations = await _until(lambda: _conversations_of(running, len(PLAYED)))
        names = await _channels(line)
        for conversation in conversations:
            keys = line[names[conversation["channel"]["id"]]]
            assert keys["channel_id"] == conversation["channel"]["id"]
            simulator = keys["simulator_url"]
            path = f"{line['base_url']}/api/demo/conversations/{conversation['id']}/messages"
            await call("POST", path, line["token"], {"type": "text", "content": "Yes, it is."})

            async def taken(simulator: str = simulator) -> bool:
                sends = await call("GET", f"{simulator}/__sim/ledger?kind=sends")
                return len(sends["items"]) == 1

            await _until(taken)
        await _stand_in_posts(line)
        found = await _until(lambda: _conversations_of(running, len(PLAYED) + 1))
        (another,) = {each["id"] for each in found} - {each["id"] for each in conversations}
        await _is_answered(line, another)
        await _stand_in_pushes_a_review(line)
        assert await _until(lambda: _conversations_of(running, len(PLAYED) + 2))
        await _stand_in_sends_mail(line)
        assert await _until(lambda: _conversations_of(running, len(PLAYED) + 3))
    assert len(secrets) > 3 * len(PLAYED)
    assert b'"webhook.accepted"' in log_of(data_dir).read_bytes()
    seen = told({**secrets, "what is no secret": "Yes, it is."}, data_dir, log_of(data_dir))
    assert {name for name, _ in seen} == {"what is no secret"}


async def _people_use(running: Started) -> dict[str, str]:
    """What is secret of what people do: passwords that are right, wrong and new, tokens, tickets. Repeated
    calls have kept answers."""
    line = running.line
    url = f"{line['base_url']}/api/demo"
    login = f"{line['base_url']}/api/landlord/auth/login"
    wrong, new = "wrong-guess-of-somebody", "password-of-a-colleague"
    async with httpx.AsyncClient(trust_env=False) as client:
        body = {"email": line["agent"]["email"], "password": wrong}
        assert (await client.post(login, json=body)).status_code == 401
        body["password"] = line["agent"]["password"]
        token = (await client.post(login, json=body)).json()["data"]["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        kept: dict[str, dict[str, str]] = {}
        for number, (path, call_body) in enumerate(
            {
                "users": {"email": "new@demo.example", "name": "New", "password": new},
                "api-tokens": {"name": "new"},
                "push-tickets": None,
            }.items()
        ):
            for _ in range(2):
                made = await client.post(
                    f"{url}/{path}", json=call_body, headers={"Idempotency-Key": f"hidden {number}"}
                )
                assert made.status_code == 201
                kept[path] = made.json()["data"]
    return {
        "wrong password": wrong,
        "new password": new,
        "login": token.partition("|")[2],
        "api token": kept["api-tokens"]["token"].partition("|")[2],
        "ticket": kept["push-tickets"]["ticket"],
    }


async def _channels(line: dict[str, Any]) -> dict[int, str]:
    """What each channel is played by."""
    page = await call("GET", f"{line['base_url']}/api/demo/channels", line["token"])
    fields = {name: played_by(name).platform.connection.account.name for name in PLAYED}
    accounts = {line[name][field]: name for name, field in fields.items()}
    return {each["id"]: accounts[each["external_id"]] for each in page["data"]["items"]}


async def _stand_in_posts(line: dict[str, Any]) -> None:
    """Somebody else's stand-in, with nothing but the line, by the platform's other name."""
    keys = line["messenger"]
    now = int(time.time() * 1_000)
    item = {
        "sender": {"id": "7100000000000099"},
        "recipient": {"id": keys["page_id"]},
        "timestamp": now,
        "message": {"mid": "m_stand_in", "text": "By another stand-in"},
    }
    entry = {"id": keys["page_id"], "time": now, "messaging": [item]}
    body = json.dumps({"object": "page", "entry": [entry]}).encode()
    signature = "sha256=" + hmac.new(keys["app_secret"].encode(), body, hashlib.sha256).hexdigest()
    url = keys["webhook_url"].replace("/facebook", "/messenger")
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        refused = await client.post(url, content=body, headers={"X-Hub-Signature-256": "sha256=00"})
        assert refused.status_code == 401
        accepted = await client.post(url, content=body, headers={"X-Hub-Signature-256": signature})
        assert accepted.status_code == 200


async def _is_answered(line: dict[str, Any], conversation_id: int) -> None:
    """The simulator takes a send to somebody whom only the other stand-in knows."""
    path = f"{line['base_url']}/api/demo/conversations/{conversation_id}/messages"
    made = await call("POST", path, line["token"], {"type": "text", "content": "Yes, it is."})

    async def status() -> Any:
        page = await call("GET", path, line["token"])
        (status,) = (each["status"] for each in page["data"]["items"] if each["id"] == made["data"]["id"])
        return status if status != "pending" else None

    assert await _until(status) == "sent"


async def _stand_in_pushes_a_review(line: dict[str, Any]) -> None:
    """Pub/Sub's push with a token that is signed by Google's key in the line; with another, it is refused."""
    keys = line["google-reviews"]
    review = f"{keys['account_id']}/reviews/r1"
    body = {"from": "reviews/r1", "review": {"comment": "Late.", "starRating": "TWO"}}
    await call("POST", f"{keys['simulator_url']}/__sim/reviews", body=body)
    named = {"notificationType": "NEW_REVIEW", "location_name": keys["account_id"], "review_name": review}
    data = base64.b64encode(json.dumps(named).encode()).decode()
    push = {"message": {"data": data, "messageId": "1"}, "subscription": "projects/p/subscriptions/s"}
    now = int(time.time())
    claims = {
        "iss": "https://accounts.google.com",
        "aud": keys["push_audience"],
        "email": keys["push_email"],
        "email_verified": True,
        "iat": now,
        "exp": now + 600,
    }
    async with httpx.AsyncClient(trust_env=False) as client:
        for private_key, expected in ((new_private_key(), 401), (keys["push_private_key"], 200)):
            token = jwt.encode(claims, private_key, "RS256", {"kid": keys["push_key_id"]})
            headers = {"Authorization": f"Bearer {token}"}
            answer = await client.post(keys["webhook_url"], json=push, headers=headers)
            assert answer.status_code == expected, answer.text


async def _stand_in_sends_mail(line: dict[str, Any]) -> None:
    """By SMTP, to the address in the line."""
    keys = line["email"]
    address = urlsplit(keys["smtp_url"])
    assert address.scheme == "smtp"
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "noor@mail.example", keys["address"], "Opening hours"
    mail.set_content("When do you open?")

    def deliver() -> None:
        assert address.hostname is not None
        with smtplib.SMTP(address.hostname, address.port or 25, timeout=20) as server:
            server.send_message(mail)

    await trio.to_thread.run_sync(deliver)


async def _conversations_of(running: Started, count: int) -> list[dict[str, Any]]:
    found = await _conversations(running)
    return found if len(found) == count else []


async def _resumes(running: Started) -> None:
    """From before the restart: the rings are empty, so the log is read; each event once and in order."""
    line = running.line
    page = await call("GET", f"{line['base_url']}/api/demo/events?since=0&channel=inbox", line["token"])
    held = [item["cursor"] for item in page["data"]["items"]]
    assert len(held) > 2
    async with opened(line["ws_url"]) as socket:
        await talk(socket, {"type": "auth", "token": line["token"], "tenant": "demo"})
        await talk(socket, {"type": "subscribe", "channel": "inbox", "since": held[0]})
        heard = [await hear(socket) for _ in held[1:]]
    assert [(each["type"], each["cursor"]) for each in heard] == [("event", cursor) for cursor in held[1:]]


async def _comes_back_without_its_notes(first: Started, data_dir: Path) -> None:
    """The owner is the same and has a new password that works; and with another simulator's address, that
    one's account is connected."""
    async with started(data_dir.parent / "simulator", "simulate") as simulator:
        url = simulator.line["simulator_url"]
        assert simulator.line["callback_url"] is None
        async with started(data_dir, "dev", "--json", "--port", "0", "--simulator-url", url) as third:
            assert third.line["agent"]["id"] == first.line["agent"]["id"]
            assert third.line["agent"]["password"] != first.line["agent"]["password"]
            await _log_in(third)
            assert third.line["simulator_url"] == url
            assert _keys(third.line, "whatsapp") == simulator.line["whatsapp"]
            await _customer_writes(third, "Hello?")
            await _until(lambda: _has_two_channels(third))
    assert (simulator.status, third.status) == (0, 0)


async def _has_two_channels(running: Started) -> bool:
    return len({each["channel"]["id"] for each in await _conversations(running)}) == 2


async def _has_messages(running: Started, count: int) -> bool:
    return [each["message_count"] for each in await _conversations(running)] == [count]


async def _log_in(running: Started) -> None:
    agent = running.line["agent"]
    body = {"email": agent["email"], "password": agent["password"]}
    await call("POST", f"{running.line['base_url']}/api/landlord/auth/login", body=body)


async def _administration_finds(running: Started, data_dir: Path) -> None:
    """Commands speak to the server that runs; a second one on its data is refused."""
    token = running.line["token"]
    made = await mijra(
        data_dir,
        *("token", "create", "--tenant", "demo", "--email", running.line["agent"]["email"]),
        *("--name", "reader", "--ability", "conversations.view"),
    )
    assert made.returncode == 0, made.stderr
    reader = re.search(rb"^token +(\S+)$", made.stdout, re.MULTILINE)
    assert reader is not None
    url = f"{running.line['base_url']}/api/demo"
    assert (await call("GET", f"{url}/conversations", reader[1].decode()))["success"]

    migrated = await mijra(data_dir, "migrate")
    assert migrated.stdout.count(b"nothing to do") == 2, migrated.stderr

    user = ("user", "create", "--tenant", "demo", "--email", "mei@demo.example", "--name", "Mei")
    assert (await mijra(data_dir, *user)).returncode == 0
    names = [each["name"] for each in (await call("GET", f"{url}/users", token))["data"]["items"]]
    assert "Mei" in names

    twice = await mijra(data_dir, *user)
    assert twice.returncode == 1
    assert twice.stderr.decode().splitlines() == ["Error: A user has this e-mail. email: Is in use already."]

    other = await mijra(data_dir, "dev", "--json", "--port", "0")
    assert other.returncode == 1
    assert b"runs a server on" in other.stderr


async def test_without_a_server_commands_start_one_for_themselves(tmp_path: Path) -> None:
    """Migrate, a tenant with its own database, an account on WhatsApp; nothing is left running or behind."""
    data_dir = tmp_path / "data"
    migrated = await mijra(data_dir, "migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert re.fullmatch(rb"mijra_landlord: schema \d+, applied [\d, ]+\n", migrated.stdout)

    owner = ("--owner-email", "noor@acme.example", "--owner-name", "Noor")
    made = await mijra(data_dir, "tenant", "create", "acme", "--name", "Acme", *owner)
    assert made.returncode == 0, made.stderr
    password = re.search(rb"^password +(\S+)$", made.stdout, re.MULTILINE)
    assert password is not None
    assert len(password[1]) >= 16

    connected = await mijra(
        data_dir,
        *("channel", "connect", "whatsapp", "--tenant", "acme", "--name", "Support"),
        *("--phone-number-id", "106540352242001", "--waba-id", "102290129340001"),
        WHATSAPP_ACCESS_TOKEN="EAAG-token",
        WHATSAPP_APP_SECRET="a-secret",
    )
    assert connected.returncode == 0, connected.stderr
    assert re.search(rb"^webhook url +http://\S+/api/webhooks/whatsapp/\S+$", connected.stdout, re.MULTILINE)
    assert re.search(rb"^verify token +\S{16,}$", connected.stdout, re.MULTILINE)
    assert b"a-secret" not in connected.stdout + connected.stderr

    assert not (data_dir / "server.json").exists()
