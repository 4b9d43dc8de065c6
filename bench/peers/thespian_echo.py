"""Thespian's actor for the mailbox bench; Thespian wants it importable by name."""

from typing import Any

from thespian.actors import Actor


class Echo(Actor):  # type: ignore[misc, unused-ignore]
    """Answers each message with itself when an asker waits; a tell is answered to nobody."""

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802
        if isinstance(message, int):
            self.send(sender, message)
