"""`expedite environment`: the machine and the versions that a report of a fault needs to say."""

from expedite.cli.options import AsJson, show, working_on


def environment_command(as_json: AsJson = False) -> None:
    """Print the versions and the machine, for a report of a fault."""
    with working_on("loading PyTorch"):
        from expedite.measure.environment import machine

        found = machine()
    show({**found}, [f"{name}: {value}" for name, value in found.items()], as_json)
