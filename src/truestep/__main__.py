"""`python -m truestep` is the command line."""

from truestep.cli import main

if __name__ == "__main__":
    main()
