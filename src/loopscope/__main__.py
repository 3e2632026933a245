"""`python -m loopscope`, the form torchrun needs."""

from loopscope.cli import main

main()
