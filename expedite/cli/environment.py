"""`expedite environment`: the machine and the versions that a report of a fault needs to say."""

from expedite.cli.options import AsJson, show
from expedite.measure.environment import machine


def environment_command(as_json: AsJson = False) -> None:
    """Print the versions and the machine, for a report of a fault."""
    found = machine()
    show({**found}, "\n".join(f"{name}: {value}" for name, value in found.items()), as_json)
