"""The usual stack for this job, written with care: FastAPI, PostgreSQL, a Redis queue, Redis pub/sub.

It is what a competent team would run in production today, tuned where such teams tune: uvicorn with httptools
and uvloop, asyncpg with a pool and prepared statements, orjson, an upsert instead of read-then-write, three
statements per transaction, Redis over a Unix socket without persistence, one pub/sub reader per process that
shares each frame among its WebSockets.

One webhook    signature on the raw bytes → for each message one transaction (customer and conversation
               upserted, message inserted with its platform id unique, event inserted) → commit → arq job
               enqueued and event published → 200. A message that is there already rolls its transaction back.
One job        the worker reads the message and looks for a keyword rule that answers it.
One push       the process's pub/sub reader hands the event to every WebSocket of that inbox.

Beside Mijra it does less: no raw delivery is kept, no other message types, no statuses, no tenants, no
fencing; and a crash between commit and publish loses push and job. None of this costs it speed.

`app` is served by uvicorn, `jobs.Worker` by arq. Both read PEER_DATABASE_URL and PEER_REDIS_SOCKET; the app
also PEER_APP_SECRET, PEER_TOKEN and PEER_POOL_SIZE.
"""
