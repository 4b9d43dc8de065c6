"""How the played platform behaves: its limits, its delays and its bad habits.

The defaults are a calm platform: the real limits, every event once and in order. `Settings.rough()` has
the habits that the real platform shows on a bad day. Figures named "sheet" are the platform's own.
"""

from msgspec import Struct
from msgspec.structs import replace

_DAY_SECONDS = 86_400.0


class Template(Struct, frozen=True, kw_only=True):
    """An approved message template; `parameters` is the number of body parameters it needs."""

    name: str
    language: str = "en_US"
    parameters: int = 0
    category: str = "UTILITY"
    text: str = ""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All knobs. Times in seconds; pairs are (least, most); probabilities lie in 0..1."""

    sends_per_second_max: int = 80
    """Accepted sends per number in any second (sheet: 80 by default, 1000 upgraded, 20 coexistence)."""
    rate_limit_http_status: int = 429
    """Sources differ (400 or 429); clients must decide on the error code."""
    pair_seconds: float = 6.0
    pair_burst_max: int = 45
    """One message per 6 s to one user, bursts of 45 that are paid back (sheet)."""
    window_enforced: bool = True
    """Off for load that posts its own webhooks, so that the platform never saw a customer write."""
    window_seconds: float = _DAY_SECONDS
    strangers_taken: bool = False
    """Sends to people who never wrote here are taken, as if they had just written: somebody else posts their
    messages. What becomes of such a send is told by whoever plays them, so nothing is told from here."""
    media_url_seconds: float = 300.0
    """A media address lives 5 minutes (sheet)."""
    templates: tuple[Template, ...] = (
        Template(name="hello_world", text="Hello World"),
        Template(name="order_confirmation", parameters=2, text="Hi {{1}}, order {{2}} is confirmed."),
        Template(name="order_confirmation", language="ar", parameters=2),
        Template(name="seasonal_offer", parameters=1, category="MARKETING", text="Only today: {{1}}"),
    )

    webhook_connections_max: int = 32
    """Concurrent webhook calls; the platform posts concurrently, a small server must not drown."""
    webhook_answer_seconds_max: float = 10.0
    retry_gaps_seconds: tuple[float, ...] = (5, 15, 60, 300, 900, 3_600, 14_400, 43_200)
    """After these the last one repeats (sheet: growing gaps, the exact ones are not published)."""
    retry_seconds_max: float = 7 * _DAY_SECONDS
    """Then the event is given up and the ledger says so (sheet: 7 days)."""
    retries_max: int | None = None
    """Tries after the first one; None: as many as fit into the time."""
    time_factor: float = 1.0
    """Scales the retry gaps and `retry_seconds_max`; tests use a small one."""
    duplicate_probability: float = 0.0
    """Chance that an acknowledged delivery is posted again."""
    duplicate_seconds: tuple[float, float] = (0.0, 2.0)
    duplicates_max: int = 3
    late_probability: float = 0.0
    """Chance that an event is held back, so that younger ones overtake it."""
    late_seconds: tuple[float, float] = (0.05, 3.0)
    batch_probability: float = 0.0
    """Chance that an event waits `batch_seconds` for company in one POST."""
    batch_seconds: float = 0.05
    batch_events_max: int = 50
    """Keeps a batch far below the 3 MB that a webhook may weigh (sheet)."""
    events_waiting_max: int = 100_000
    """Events not yet acknowledged; beyond it speaking is refused. About 2 KB each."""

    sent_seconds: tuple[float, float] = (0.02, 0.3)
    delivered_seconds: tuple[float, float] = (0.05, 0.8)
    read_seconds: tuple[float, float] = (0.2, 4.0)
    """Each counted from the status before it."""
    read_probability: float = 0.85
    played_probability: float = 0.6
    """Of a voice message that was read."""
    status_disorder_probability: float = 0.0
    """Chance that the statuses of one message come in any order, or `read` without `delivered`."""
    failure_probability: float = 0.0
    """Chance that an accepted send ends as `failed` with one of `failure_codes`."""
    failure_codes: tuple[int, ...] = (131026, 130472, 131049, 131000)

    ledger_records_max: int = 1_000_000
    """Messages, statuses and sends together, about 400 MB; beyond it the simulator refuses to go on."""

    def rough(self) -> "Settings":
        """The same platform on a bad day: duplicates, batches, late and disordered events, failures."""
        return replace(
            self,
            duplicate_probability=0.05,
            late_probability=0.03,
            batch_probability=0.25,
            status_disorder_probability=0.1,
            failure_probability=0.01,
        )
