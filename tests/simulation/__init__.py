"""The whole engine in a deterministic simulation: a day of some hours, from a seed, in about a second.

Real are the engine, the writers with their transactions, `Webhooks.handle` with signed bodies, the adapters
(receivers, senders, readers, renewals), the channel actor, the renewer, the hub and its sessions. Models are
the database behind the writer's statements (`database`, `store`), what becomes of a call (`platform`),
customers, agents and screens, and all clocks. How a platform speaks is a `lines.Voice`: `whatsapp` is one of
the day's own, Messenger, Instagram, TikTok, SMS and Business Messages are the simulators that demos use,
without their servers (`played`, `voices`). Which accounts a day has follows from its seed. There are no
sockets and no threads; trio's MockClock jumps from deadline to deadline, its scheduler is seeded, and so is
everything else that is random (`determined`).

    python -m tests.simulation --seed 7              replays a day; `--json`, `--timeline`, `--without KIND`
    python -m tests.simulation --seeds 0-999         runs many in parallel
    python -m tests.simulation.mutants               plants bugs into a copy and looks whether they are found

What may go wrong is listed in `chance`; what is planned for a day in `plan`. Promises are checked where
they can be broken: by `ledger` when something is acknowledged, by `commits` when something becomes durable,
by `platform` when something is sent, by `screens` when something is pushed, by `supervision` when something
crashes, by `bounds` whenever something waits, by `checkers` and `channels` at the end.

Not here: e-mail and Google's reviews, whose listeners and keys have tests of their own; media downloads
(tests/adapters/test_fetcher.py), the HTTP layer of the API (agents make the domain's calls themselves),
PostgreSQL itself (tests/storage/test_contract.py runs one suite over it and over the model), and leases
between nodes, which do not exist yet: a `split` lets a process go on after its successor has taken over.
"""
