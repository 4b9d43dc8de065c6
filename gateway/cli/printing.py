"""How administrative commands show what they made: a name and a value per line, easy to read and to grep."""

from collections.abc import Mapping

import click


def show(facts: Mapping[str, object]) -> None:
    """One line each, values in a column. What is None is left out."""
    shown = {name: value for name, value in facts.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {value}")


def show_once(name: str, value: str | None) -> None:
    """A secret that nobody can show again; the warning goes beside it, so that pipes carry values alone."""
    if value is not None:
        show({name: value})
        click.echo(f"The {name} is shown only now.", err=True)
