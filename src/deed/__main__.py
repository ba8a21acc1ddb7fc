"""`python -m deed`."""

from deed.cli import main

if __name__ == "__main__":
    main()
