"""The README's channel table, made from what the adapters say of themselves."""

from collections.abc import Sequence
from typing import Final

from engine.domain.platforms import Capabilities, Platform

COLUMNS: Final = (
    "channel", "receives", "sends", "receipts", "media", "buttons", "templates", "reply window", "limits",
)  # fmt: skip
_MEDIA: Final = ("image", "video", "audio", "voice", "document", "sticker")
_HOUR: Final = 3_600
_DAY: Final = 24 * _HOUR


def markdown(platforms: Sequence[Platform]) -> str:
    """One row for each platform."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_row(each) for each in platforms)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(platform: Platform) -> tuple[str, ...]:
    can = platform.capabilities
    return (
        f"{platform.label} (`{platform.name}`)",
        _words(_plain(can.receives), {"edits": can.edits, "deletions": can.deletions, "echoes": can.echoes}),
        _words(
            (*_plain(can.sends), *(f"{kind} as text" for kind in can.degrades if kind not in can.sends)),
            {"typing": can.typing, "read marks": can.read_marks},
        ),
        ", ".join(can.statuses),
        _media(can),
        can.buttons or (can.degrades.get("interactive") or "–"),
        can.templates or "–",
        _window(can),
        can.limits or "–",
    )


def _plain(types: Sequence[str]) -> tuple[str, ...]:
    return tuple(each for each in types if each not in _MEDIA)


def _words(types: Sequence[str], more: dict[str, bool]) -> str:
    return ", ".join((*types, *(name for name, there in more.items() if there))) or "–"


def _media(can: Capabilities) -> str:
    sent = [
        f"{kind} {_size(can.media_bytes_max[kind])}" if kind in can.media_bytes_max else kind
        for kind in _MEDIA
        if kind in can.sends
    ]
    received = [kind for kind in _MEDIA if kind in can.receives and kind not in can.sends]
    parts = [", ".join(sent), f"only received: {', '.join(received)}" if received else ""]
    return "; ".join(part for part in parts if part) or "–"


def _size(count: int) -> str:
    return f"{count / 1_000_000:g} MB" if count >= 1_000_000 else f"{count / 1_000:g} kB"


def _window(can: Capabilities) -> str:
    if can.window_seconds is None:
        return "none"
    parts = [_time(can.window_seconds)]
    if can.human_window_seconds is not None:
        parts.append(f"people {_time(can.human_window_seconds)}")
    if can.window_messages_max is not None:
        parts.append(f"{can.window_messages_max} messages")
    return ", ".join(parts)


def _time(seconds: int) -> str:
    return f"{seconds // _DAY} d" if seconds > _DAY and seconds % _DAY == 0 else f"{seconds // _HOUR} h"
