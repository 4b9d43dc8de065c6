"""What `mijra dev` remembers, and what it makes of a stand-in that is not ours."""

import json
from pathlib import Path

import pytest

from adapters.simulators.http import Request, Response
from engine.errors import MijraError, Unavailable
from gateway.cli.sandbox import FILE_NAME, account_of, connect_simulator, remember, stand_ins
from tests.simulators.receiver import listening

pytestmark = pytest.mark.real_time

ANSWERS = {
    "nothing there": Response(404),
    "a page": Response(200, b"<html></html>", "text/html"),
    "an object": Response(200, b"{}"),
    "a list of something else": Response(200, b"[1]"),
    "an empty list": Response(200, b"[]"),
    "accounts of another kind": Response(200, b'[{"id": "1"}]'),
    "a refusal as the platform has it": Response(400, b'{"error": {"code": 100}}'),
    "trouble": Response(500, b'{"message": "no"}'),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_another_stand_in_may_answer_anything(answer: Response) -> None:
    """It has none of our control API, so its account is the one that we make."""

    async def take(request: Request) -> Response:
        return answer

    async with listening(take) as server:
        for name in stand_ins():
            assert await account_of(name, server.base_url) is None


async def test_a_stand_in_that_is_not_there_is_an_error() -> None:
    with pytest.raises(Unavailable, match="No simulator answers"):
        await account_of("whatsapp", "http://127.0.0.1:9")


async def test_a_simulator_that_refuses_the_address_says_why() -> None:
    async def take(request: Request) -> Response:
        return Response(422, b'{"message": "no handshake"}')

    async with listening(take) as server:
        with pytest.raises(MijraError, match="no handshake"):
            await connect_simulator(server.base_url, "http://127.0.0.1:9/hook")


def test_what_is_remembered_stays_and_what_is_new_is_added(tmp_path: Path) -> None:
    """A directory of an earlier version, which knew one account less and of another one a key less."""
    first = remember(tmp_path)
    assert remember(tmp_path) == first
    path = tmp_path / FILE_NAME
    earlier = json.loads(path.read_bytes())
    gone, shrunk, *_ = earlier["accounts"]
    del earlier["accounts"][gone]
    lost = earlier["accounts"][shrunk].popitem()[0]
    path.write_text(json.dumps(earlier))
    second = remember(tmp_path)
    assert second.accounts.keys() == first.accounts.keys()
    kept = {name: value for name, value in first.accounts[shrunk].items() if name != lost}
    assert kept.items() <= second.accounts[shrunk].items()
    assert second.accounts[shrunk].keys() == first.accounts[shrunk].keys()
    assert (second.password, remember(tmp_path)) == (first.password, second)
