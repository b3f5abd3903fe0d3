"""``python -m convsurgeon``: the command line."""

from convsurgeon.commands import main

main()
