"""`python -m signa`."""

from signa.cli import main

if __name__ == "__main__":
    main()
