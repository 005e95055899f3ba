"""Entry point of `python -m kubenetlab`, equivalent to the command `kubenetlab`."""

from kubenetlab.cli import main

if __name__ == "__main__":
    main()
