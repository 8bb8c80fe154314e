"""`python -m thermograd`, the same as `thermograd`."""

from thermograd.cli import main

if __name__ == "__main__":
    main()
