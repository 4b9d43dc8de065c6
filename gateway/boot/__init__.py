"""The composition root: puts all parts together, starts them in order, stops them in reverse.

Start   database server, landlord's and tenants' schemas, stores, writers, engine, what an earlier process
        left to do, the adapters' services, operator port, public port. A server that says it is ready has all
        behind it running; a service that fails is started again beside it.
Stop    the door first (operator says not ready, no new connections, screens are told to come back, listeners
        and pollers end), then the engine drains (conversations decide what waits, channels end their calls),
        then the writers commit what is left, then the database. Each stage has its deadline; what does not
        make it is as after a kill, which loses nothing that was acknowledged.

`<data_dir>/server.json` (0600) tells the command line of a running server where it is and how to talk to it.

Files: `running` is the order of start and stop, and what there is to a system that runs; `system` makes all
parts and tells them of each other. A part each: `stores` is everything durable, `platforms` the adapters,
`actors` the engine with its workers, `edge` what listens; `accounts` opens connected accounts for whoever
needs one, `addresses` says where we are reached. `services`, `renewals`, `trouble` and `health` are what
adapters and engine have to do with each other beside sending. `upkeep` and `waking` are chores, `operator`
lets the command line in.
"""

from gateway.boot.running import GC_THRESHOLDS, Running, running

__all__ = ["GC_THRESHOLDS", "Running", "running"]
