"""`python -m adapters` lists the platforms; `python -m adapters --markdown` prints the README's channel
table."""

import sys

import structlog

from adapters.registry import adapters
from adapters.table import markdown

if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if sys.argv[1:] == ["--markdown"]:
        sys.stdout.write(markdown([each.platform for each in adapters().values()]))
    else:
        for each in adapters().values():
            sys.stdout.write(f"{each.platform.name}  {each.platform.label}  {type(each).__module__}\n")
