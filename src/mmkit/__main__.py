"""`python -m mmkit`."""

from mmkit.cli.main import main

main()
