"""What Pages and Instagram accounts tell, where it is not as the platform writes it."""

from typing import Any

import msgspec
import pytest

from adapters.instagram import ADAPTER as INSTAGRAM
from adapters.messenger import ADAPTER as MESSENGER
from adapters.port import Adapter
from engine.domain.inbound import Unsupported


@pytest.mark.parametrize(("adapter", "object_"), [(MESSENGER, "page"), (INSTAGRAM, "instagram")])
@pytest.mark.parametrize("type_", [["image"], {"image": 1}, 7, None])
def test_an_attachment_whose_type_is_no_word_is_unsupported(
    adapter: Adapter, object_: str, type_: Any
) -> None:
    """The parser used to crash on one that cannot be looked up in a set, so the platform repeated it for
    days."""
    item = {
        "sender": {"id": "7100000000000011"},
        "recipient": {"id": "610000000000000"},
        "timestamp": 1_767_441_600_000,
        "message": {
            "mid": "m_1",
            "attachments": [{"type": type_, "payload": {"url": "https://x.example/1"}}],
        },
    }
    body = {"object": object_, "entry": [{"id": "610000000000000", "messaging": [item]}]}
    (routed,) = adapter.receiver().parse(msgspec.json.encode(body))
    assert isinstance(routed.event, Unsupported)
    assert routed.event.platform_id == "m_1"
