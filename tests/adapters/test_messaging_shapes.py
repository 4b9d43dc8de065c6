"""What messages of Pages and Instagram accounts say."""

from typing import Any

import pytest

from adapters.meta.shapes import shape_of

THUMB = 369239263222822


def attachment(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "payload": {"url": f"https://cdn.example/{name}.png", **more}}


@pytest.mark.parametrize(
    ("attachments", "kinds"),
    [
        ([attachment("image", "thumb", sticker_id=THUMB)], ["sticker"]),
        ([attachment("sticker", "thumb", sticker_id=THUMB)], ["sticker"]),
        (
            [
                attachment("sticker", "thumb", sticker_id=THUMB),
                attachment("image", "thumb", sticker_id=THUMB),
            ],
            ["sticker"],
        ),
        (
            [
                attachment("image", "thumb", sticker_id=THUMB),
                attachment("sticker", "thumb", sticker_id=THUMB),
            ],
            ["sticker"],
        ),
        ([attachment("sticker", "a", sticker_id=1), attachment("image", "b", sticker_id=2)], ["sticker"] * 2),
        ([attachment("sticker", "a"), attachment("image", "b")], ["sticker", "image"]),
        (
            [attachment("sticker", "a", sticker_id=[]), attachment("image", "b", sticker_id={})],
            ["sticker"] * 2,
        ),
    ],
)
def test_a_sticker_comes_once(attachments: list[Any], kinds: list[str]) -> None:
    """Also where the platform sends it as a picture beside."""
    shape = shape_of({"attachments": attachments})
    assert shape is not None
    kind, _, _, media = shape
    assert kind == "sticker"
    assert [each.kind for each in media] == kinds
    assert all(each.source_url for each in media)
