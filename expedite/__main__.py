"""`python -m expedite`."""

from expedite.cli import main

main()
