"""`python -m gateway.cli`: the same as `mijra`, for processes that start another one of themselves."""

from gateway.cli import main

main(prog_name="mijra")
