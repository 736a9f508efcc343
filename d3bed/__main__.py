"""`python -m d3bed` is `d3bed`."""

from d3bed.cli import main

if __name__ == "__main__":
    main()
