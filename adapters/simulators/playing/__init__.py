"""What every played platform has in common; a new one brings only what is its own.

    platform    `Played`: life, accounts, callbacks, talk, ledger, scripting. A subclass says how its
                customers speak, how what happened is put into a request, and answers calls
    control     the control API under `/__sim/`, the same for all; a platform adds calls of its own
    calls       `Calls`: the platform's API under the faults that a script sets
    cast        who the customers are

`adapters/simulators/messaging` is the model to read.
"""
