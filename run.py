"""`python run.py algo=cql env=pong`: see `python run.py --help`."""

from lfd.cli.main import main

if __name__ == "__main__":
    main()
