"""Reading the server's log back: what `mijra logs` does, apart from its options.

    lines    text to Line, passing over what is not one of ours
    filters  which lines were asked for
    story    the life of one message: its lines in order, with the time between them
    view     how both look on a terminal

It reads what `gateway.logging` writes, but holds it to nothing except JSON objects with an `event`, so that
a log that went through a collector which added or renamed fields is still worth something.
"""
