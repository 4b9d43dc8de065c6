"""Long runs under faults: everything that was acknowledged is written down outside, and compared with what is
there.

    python -m bench.chaos --rounds 200 --acknowledgements 1000000 --report bench/CHAOS.md --plot chaos.png
    python -m bench.chaos --rounds 12 --seconds 120 --seed 7

What runs   A real `mijra serve` process with a PostgreSQL of its own (on a volume of its own where mounting
            is allowed), a proxy between the two, two businesses (one in a database of its own, one pooled), a
            played WhatsApp platform, customers who write as fast as they are answered, agents who answer, and
            a screen per business that resumes with its cursor.
A round     A moment of load, one fault, the recovery, a moment of load, the comparison. The load never stops.
Ledger      `ledger.Account`: each customer's message from its first POST to its 200, each send from its first
            call to its 201, each event that a screen was pushed. One webhook carries one to five messages (or
            `--messages-per-webhook`), as the platform batches them; what is called an acknowledgement is a
            message, and webhooks are counted beside.
Checked     After each round, over the rows that are new in it: acknowledged and not stored (lost), stored or
            announced twice (doubled), the sequence numbers of a conversation, a customer's messages in
            another order than he wrote them, event cursors without a gap, each screen pushed exactly what
            was committed, in order (one that lags is compared as far as it has come). At the end, over
            everything: the tables counted, the outbox empty, each send at the platform once, or flagged where
            its outcome was unknown, and a conversation's sends in order.
Recovery    From the end of the fault (a process is told to start, a connection was cut, a disk has room
            again) to the first 200 for what was posted after it, in the slower of the two businesses. So it
            contains starting.
Impatience  Who gets no 200 posts the same bytes again after 0.1 to 0.3 s, whatever Retry-After says, until he
            has it: more impatient than any platform. Some webhooks are posted again although they were
            answered.

Files: `system` what runs, `proxy` cuts, `customers`, `agents` and `screens` load and listen, `ledger`
compares, `faults` breaks, `report` tells.
"""
