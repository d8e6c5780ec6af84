"""`python -m xseg`."""

from xseg.cli import main

if __name__ == "__main__":
    main()
