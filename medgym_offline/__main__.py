"""`python -m medgym_offline` is the command line."""

from medgym_offline.cli import main

if __name__ == "__main__":
    main()
