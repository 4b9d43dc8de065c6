"""The traffic is what the platform would send, and can be found again."""

import json

import pytest

from adapters.simulators.accounts import demo_account
from adapters.simulators.builders import signature
from bench.webhooks import Traffic

ACCOUNT = demo_account()
URL = "http://127.0.0.1:8080/api/webhooks/whatsapp"


def parts(request: bytes) -> tuple[dict[str, str], bytes]:
    head, body = request.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /api/webhooks/whatsapp HTTP/1.1"
    return dict(line.split(": ", 1) for line in lines[1:]), body


def test_every_request_is_signed_and_its_length_is_right() -> None:
    """The signature is over exactly the body that follows; the length is the body's."""
    traffic = Traffic(URL, ACCOUNT)
    traffic.encode(50)
    for request in traffic.requests:
        headers, body = parts(request)
        assert headers["Host"] == "127.0.0.1:8080"
        assert headers["Content-Length"] == str(len(body))
        assert headers["X-Hub-Signature-256"] == signature(ACCOUNT.app_secret, body)


def test_ids_are_unique_and_name_their_number() -> None:
    """The number in the id is the request's place, also after encoding in two goes."""
    traffic = Traffic(URL, ACCOUNT)
    traffic.encode(3)
    traffic.encode(4)
    ids = []
    for request in traffic.requests:
        _, body = parts(request)
        ids.append(json.loads(body)["entry"][0]["changes"][0]["value"]["messages"][0]["id"])
    assert [traffic.number_in(one.encode()) for one in ids] == list(range(7))
    assert all(one.startswith(traffic.id_prefix) for one in ids)


def test_another_streams_message_has_no_number_here() -> None:
    """A frame about an earlier round is not taken for one of this round."""
    first, second = Traffic(URL, ACCOUNT), Traffic(URL, ACCOUNT)
    first.encode(1)
    assert first.number_in(first.requests[0]) == 0
    assert second.number_in(first.requests[0]) is None


def test_the_same_seed_gives_the_same_customers_and_texts() -> None:
    """Ours and the peer get the same messages in the same order."""

    def said(run: str) -> list[tuple[str, str]]:
        traffic = Traffic(URL, ACCOUNT, customers=20, seed=7, run=run)
        traffic.encode(100)
        messages = []
        for request in traffic.requests:
            value = json.loads(parts(request)[1])["entry"][0]["changes"][0]["value"]
            messages.append((value["messages"][0]["from"], value["messages"][0]["text"]["body"]))
        return messages

    assert said("A") == said("B")
    assert 15 <= len({customer for customer, _ in said("A")}) <= 20


def test_a_real_parser_reads_the_requests() -> None:
    """llhttp finds one complete message in each."""
    httptools = pytest.importorskip("httptools", reason="one of the bench extra")
    complete = 0

    class Seen:
        def on_message_complete(self) -> None:
            nonlocal complete
            complete += 1

    traffic = Traffic(URL, ACCOUNT)
    traffic.encode(10)
    parser = httptools.HttpRequestParser(Seen())
    for request in traffic.requests:
        parser.feed_data(request)
    assert complete == 10


@pytest.mark.parametrize("url", ["https://127.0.0.1/x", "127.0.0.1:80/x"])
def test_a_url_that_the_generator_cannot_speak_is_refused(url: str) -> None:
    """No TLS: said before anything is encoded."""
    with pytest.raises(ValueError, match="plain HTTP"):
        Traffic(url, ACCOUNT)
