"""`python -m runner.cli` is the command `dagmill`."""

from runner.cli import main

main()
