"""Run the command line: `python -m vzfs`."""

from vzfs.cli import main

if __name__ == "__main__":
    main()
