"""`python -m kit` is the `kit` command."""

from kit.cli.main import run

if __name__ == "__main__":
    run()
