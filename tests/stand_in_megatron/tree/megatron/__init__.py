"""A stand-in for upstream's package: the entry points that the kit calls, and a tiny model.

Every line is the kit's own. The model is no transformer: its state halves at every token and adds
the token's embedding, and the scores are the state times the embedding table. That is enough to
see whether tokens arrive whole, in order and at every rank: each rank holds its rows of the table.
"""

from argparse import Namespace

_args: list[Namespace] = []


def get_args() -> Namespace:
    """The arguments that were parsed."""
    return _args[0]


def set_args(args: Namespace) -> None:
    """Once per process, as in upstream."""
    assert not _args, "args is already initialized."
    _args.append(args)
