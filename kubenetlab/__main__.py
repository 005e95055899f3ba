"""`python -m kubenetlab`: the same as the command `kubenetlab`."""

from kubenetlab.cli import main

if __name__ == "__main__":
    main()
