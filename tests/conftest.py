"""What every part of the suite can ask for."""

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.system"]
