"""Sources of weights, one protocol a module. Each says where a set's files are, and what is known.

A source is asked for all files of a set at once and answers with an :class:`Offer` for each, before
any of them is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kit.lock import Basis
from kit.weights.fetch.http import Location
from kit.weights.fetch.transfer import Expected


@dataclass(frozen=True)
class Offer:
    """One file at a source.

    Attributes:
        locate: says where to read it now; a ``file:`` URL is a file on this machine.
        expected: size and sha256, as far as the source publishes them.
        basis: how a sha256 recorded from here is known.
        origin: for the lock and for messages; never with a token or a signature in it.
    """

    locate: Callable[[], Location]
    expected: Expected
    basis: Basis
    origin: str


Offers = Mapping[str, Offer]
"""By path in the set's own folder."""
