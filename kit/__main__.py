"""The `kit` command, also as `python -m kit`."""

import sys


def main() -> None:
    """Run the command line and exit with its code. Ctrl-C is one line and 130 at any moment."""
    try:
        # Here, as most of a short command's time goes into this import.
        from kit.cli.main import run

        run()
    except KeyboardInterrupt:
        _leave()
    except SystemExit as end:
        # Typer exits with 130 and says nothing.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            _leave()
        raise


def _leave() -> None:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
    main()
