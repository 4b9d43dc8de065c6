"""What was acknowledged to whom, and the comparison with what is there.

Numbers    Each customer's message has a number of its own per business, which its platform id carries. Two
           byte arrays hold, per number, whether it was acknowledged and how often it was found, so a million
           messages cost two megabytes.
New rows   Found by the event log: its cursor has no gap and rises in the order of commits, so everything
           past the last compared cursor is new, and nothing before it can still come. Each arrival is joined
           with its message; the audit at the end counts the tables, so that a message without an event shows
           as well.
"""

from bisect import bisect_right
from collections import Counter
from typing import Any, Final

import asyncpg
from msgspec import Struct, field

from bench.chaos.system import Business

SHOWN: Final = 5
_ROWS_AT_ONCE: Final = 50_000
DIGITS: Final = 8

# One look at the log and its messages, from one snapshot. A superuser's: row-level security is not asked.
_NEW: Final = """
SELECT e.cursor, e.name, m.id, m.conversation_id, m.seq, m.direction, m.platform_message_id, m.client_key
FROM (SELECT cursor, name, CASE WHEN name IN ('message.received', 'message.sent')
                                THEN (data -> 'message' ->> 'id')::bigint END AS message_id
      FROM events WHERE tenant_id = $1 AND cursor > $2 ORDER BY cursor LIMIT $3) e
LEFT JOIN messages m ON m.tenant_id = $1 AND m.id = e.message_id
ORDER BY e.cursor
"""
_AUDIT: Final = """
SELECT count(*) FILTER (WHERE direction = 'inbound') AS inbound,
       count(DISTINCT platform_message_id) FILTER (WHERE direction = 'inbound') AS inbound_ids,
       count(*) FILTER (WHERE direction = 'outbound') AS outbound,
       count(DISTINCT client_key) FILTER (WHERE direction = 'outbound') AS outbound_keys
FROM messages WHERE tenant_id = $1
"""
_CONVERSATIONS: Final = """
SELECT c.id, c.last_seq, c.message_count, count(m.seq) AS found, coalesce(max(m.seq), 0) AS highest
FROM conversations c LEFT JOIN messages m ON m.tenant_id = c.tenant_id AND m.conversation_id = c.id
WHERE c.tenant_id = $1 GROUP BY c.id, c.last_seq, c.message_count
HAVING c.last_seq <> count(m.seq) OR c.message_count <> count(m.seq) OR c.last_seq <> coalesce(max(m.seq), 0)
"""
_TWO_OPEN: Final = """
SELECT contact_key FROM conversations WHERE tenant_id = $1 AND status IN ('new', 'open', 'pending')
GROUP BY channel_id, contact_key HAVING count(*) > 1
"""
_SENDS: Final = """
SELECT id, conversation_id, seq, status, metadata ->> 'resent' IS NOT NULL AS resent FROM messages
WHERE tenant_id = $1 AND direction = 'outbound' ORDER BY conversation_id, seq
"""
_DEAD: Final = "SELECT count(*) FROM dead_letters WHERE tenant_id = $1"
_WAITING: Final = """
SELECT count(*) FROM outbox WHERE tenant_id = $1 AND state IN ('queued', 'sending', 'unknown')
"""


class Violations(Struct):
    """What must be zero, by kind, and the first few of each in words."""

    counts: Counter[str] = field(default_factory=Counter)
    words: list[str] = field(default_factory=list)

    def add(self, kind: str, words: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= SHOWN:
            self.words.append(f"{kind}: {words}")


class Pushed(Struct):
    """What one screen was pushed and nobody has compared yet."""

    name: str
    cursor: int = 0
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    """(cursor, message id) of each message that was announced."""
    awaited: list[tuple[int, int]] = field(default_factory=list)
    """The same of the log, as far as the screen has not come yet."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Announced gaps: the screen was told to fetch these anew."""
    connections: int = 0
    compared: int = 0
    lag_max: int = 0


class Account:
    """The books of one business."""

    def __init__(self, business: Business, run: str, violations: Violations) -> None:
        self.business = business
        self.violations = violations
        self.prefix = f"wamid.HBgL{run}{business.placement[0].upper()}N"
        self.database = ""
        self.acknowledged = bytearray()
        self.found = bytearray()
        self.acknowledged_new: list[int] = []
        self.answered: dict[str, int] = {}
        """client key -> message id of each send that was answered 201"""
        self.answered_new: list[str] = []
        self.keys_found: Counter[str] = Counter()
        self.screens: list[Pushed] = []
        self.cursor = 0
        self.messages = 0
        self.webhooks = 0
        self.repeated = 0
        self._conversations: dict[int, list[int]] = {}
        self.conversation_ids: list[int] = []

    # ---------------------------------------------------------------- what is promised

    def next_numbers(self, count: int) -> range:
        """Numbers for new messages."""
        first = len(self.acknowledged)
        self.acknowledged += bytes(count)
        self.found += bytes(count)
        return range(first, first + count)

    def platform_id(self, number: int) -> str:
        return f"{self.prefix}{number:0{DIGITS}d}A5Q0FGNjY3OEJBAA=="

    def acknowledge(self, numbers: list[int]) -> None:
        """A webhook with these messages was answered 200."""
        self.webhooks += 1
        for number in numbers:
            if not self.acknowledged[number]:
                self.acknowledged[number] = 1
                self.messages += 1
                self.acknowledged_new.append(number)

    def answer(self, key: str, message_id: int) -> None:
        """A send was answered 201. A repetition must have the same message."""
        before = self.answered.setdefault(key, message_id)
        if before != message_id:
            self.violations.add("doubled", f"send {key} was answered as {before} and as {message_id}")
        self.answered_new.append(key)

    # ---------------------------------------------------------------- what is there

    async def fetch_new(self, dsn: str) -> list[Any]:
        """The log's rows that are new since the last comparison; on the asyncio side. It changes nothing."""
        connection = await asyncpg.connect(dsn, database=self.database)
        try:
            found: list[Any] = []
            while True:
                after = self.cursor + len(found)
                rows = await connection.fetch(_NEW, self.business.id, after, _ROWS_AT_ONCE)
                found += rows
                if len(rows) < _ROWS_AT_ONCE:
                    return found
        finally:
            await connection.close()

    def promised(self) -> tuple[int, int]:
        """How many acknowledgements and answers wait for a comparison; taken before the rows are fetched."""
        return len(self.acknowledged_new), len(self.answered_new)

    def compare(self, promised: tuple[int, int], rows: list[Any]) -> None:
        """What was promised must be in these rows or in those of a comparison before."""
        acknowledged, self.acknowledged_new = _split(self.acknowledged_new, promised[0])
        answered, self.answered_new = _split(self.answered_new, promised[1])
        arrivals: list[tuple[int, int]] = []
        for row in rows:
            self._see(row, arrivals)
        for pushed in self.screens:
            pushed.awaited += arrivals
        for number in acknowledged:
            if not self.found[number]:
                self.violations.add("lost", f"{self.business.slug}: {self.platform_id(number)}")
        for key in answered:
            if not self.keys_found[key]:
                self.violations.add("lost", f"{self.business.slug}: send {key} = {self.answered[key]}")

    def _see(self, row: Any, arrivals: list[tuple[int, int]]) -> None:
        cursor, name, message_id, conversation_id, seq, direction, platform_id, key = row
        add, slug = self.violations.add, self.business.slug
        if cursor != self.cursor + 1:
            add("gap", f"{slug}: event {cursor} follows {self.cursor}")
        self.cursor = cursor
        if name not in ("message.received", "message.sent"):
            return
        if message_id is None:
            add("lost", f"{slug}: the message of event {cursor} is not stored")
            return
        arrivals.append((cursor, message_id))
        last = self._conversations.get(conversation_id)
        if last is None:
            last = self._conversations[conversation_id] = [0, -1]
            self.conversation_ids.append(conversation_id)
        if seq != last[0] + 1:
            add("gap", f"{slug}: conversation {conversation_id} has {seq} after {last[0]}")
        last[0] = seq
        if direction == "outbound":
            self.keys_found[key] += 1
            if self.keys_found[key] > 1:
                add("doubled", f"{slug}: send {key} is stored {self.keys_found[key]} times")
            return
        number = self._number(platform_id)
        if number is None:
            add("invented", f"{slug}: {platform_id}")
            return
        self.found[number] = min(self.found[number] + 1, 255)
        if self.found[number] > 1:
            add("doubled", f"{slug}: {platform_id} arrived {self.found[number]} times")
        elif number < last[1]:
            add("out of order", f"{slug}: message {number} is stored after {last[1]} of the same customer")
        last[1] = max(last[1], number)

    def _number(self, platform_id: str | None) -> int | None:
        if platform_id is None or not platform_id.startswith(self.prefix):
            return None
        number = int(platform_id[len(self.prefix) :][:DIGITS])
        return number if number < len(self.found) else None

    def compare_screen(self, pushed: Pushed) -> None:
        """As far as the screen has come, and the last comparison of the log, it was pushed exactly what is in
        the log. A screen may lag; what it has not reached waits for the next comparison."""
        upto = min(self.cursor, pushed.cursor)
        pushed.lag_max = max(pushed.lag_max, self.cursor - pushed.cursor)
        seen, pushed.arrivals = _up_to(pushed.arrivals, upto)
        expected, pushed.awaited = _up_to(pushed.awaited, upto)
        pushed.compared += len(seen)
        expected = [
            one for one in expected if not any(first <= one[0] <= last for first, last in pushed.gaps)
        ]
        if seen == expected:
            return
        where, want = Counter(seen), Counter(expected)
        for kind, difference in (("not pushed", want - where), ("pushed twice", where - want)):
            for cursor, message_id in difference:
                self.violations.add(kind, f"{pushed.name}: message {message_id} of event {cursor}")
        if where == want:
            self.violations.add("pushed out of order", pushed.name)

    # ---------------------------------------------------------------- at the end, over everything

    async def waiting(self, dsn: str) -> int:
        """What is not sent yet."""
        connection = await asyncpg.connect(dsn, database=self.database)
        try:
            return int(await connection.fetchval(_WAITING, self.business.id))
        finally:
            await connection.close()

    async def audit(self, dsn: str, sends_with: dict[str, list[int]]) -> dict[str, int]:
        """The tables counted; each send at the platform once, or flagged. `sends_with`: message id -> where
        its sends stand in the platform's order."""
        add, slug = self.violations.add, self.business.slug
        connection = await asyncpg.connect(dsn, database=self.database)
        try:
            counts = dict(await connection.fetchrow(_AUDIT, self.business.id))
            wrong = await connection.fetch(_CONVERSATIONS, self.business.id)
            two_open = await connection.fetch(_TWO_OPEN, self.business.id)
            sends = await connection.fetch(_SENDS, self.business.id)
            dead = await connection.fetchval(_DEAD, self.business.id)
        finally:
            await connection.close()
        found = sum(map(bool, self.found))
        if not counts["inbound"] == counts["inbound_ids"] == found:
            add("doubled", f"{slug}: {counts} messages in the table and {found} arrivals in the log")
        if not counts["outbound"] == counts["outbound_keys"] == len(self.keys_found):
            add("doubled", f"{slug}: {counts} sends in the table and {len(self.keys_found)} in the log")
        for number, acknowledged in enumerate(self.acknowledged):
            if acknowledged and not self.found[number]:
                add("lost", f"{slug}: {self.platform_id(number)}")
        for row in wrong:
            add("gap", f"{slug}: {dict(row)}")
        for row in two_open:
            add("two open conversations", f"{slug}: {row[0]}")
        if dead:
            add("dead letters", f"{slug}: {dead}")
        last: tuple[int, int] = (0, -1)
        flagged = 0
        for message_id, conversation_id, seq, status, resent in sends:
            positions = sends_with.get(str(message_id), [])
            flagged += resent
            if not positions:
                if status != "failed":
                    add("never sent", f"{slug}: message {message_id} is {status}")
                continue
            if len(positions) > 1 and not resent:
                add("sent twice", f"{slug}: message {message_id}, without a flag")
            if last[0] == conversation_id and positions[0] < last[1]:
                add("sent out of order", f"{slug}: conversation {conversation_id}, seq {seq}")
            last = conversation_id, positions[0]
        return {**counts, "sent_again_and_flagged": flagged}


def _up_to(
    arrivals: list[tuple[int, int]], cursor: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Those up to a cursor, and the others; they are in the order of cursors."""
    at = bisect_right(arrivals, cursor, key=lambda one: one[0])
    return arrivals[:at], arrivals[at:]


def _split(new: list[Any], count: int) -> tuple[list[Any], list[Any]]:
    return new[:count], new[count:]
