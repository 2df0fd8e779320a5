"""From a source, a mirror or a Hugging Face repository to offers, with the tokens that are set."""

import base64
from collections.abc import Callable, Mapping

from kit.weights.catalogue import Source, WeightSet
from kit.weights.sources import Offers, https, lfs, openi

_KINDS: dict[str, Callable[[Source, Mapping[str, str], Mapping[str, str]], Offers]] = {
    "lfs": lfs.offers,
    "openi": openi.offers,
    "https": https.offers,
}


def source_offers(source: Source, weights: WeightSet, environ: Mapping[str, str]) -> Offers:
    """What a source of the catalogue offers. Raises as its protocol's ``offers``."""
    headers = authorization(environ.get(source.token_variable or "", ""))
    return _KINDS[source.kind](source, weights.files, headers)


def mirror_offers(base: str, weights: WeightSet, environ: Mapping[str, str]) -> Offers:
    """What a mirror offers. Raises as ``https.mirror_offers``."""
    headers = authorization(environ.get(https.MIRROR_TOKEN, ""))
    return https.mirror_offers(base, weights, headers)


def authorization(token: str) -> dict[str, str]:
    """The header for a token: ``USER:PASSWORD`` as Basic, anything else as Bearer."""
    if not token:
        return {}
    if ":" in token:
        return {"Authorization": "Basic " + base64.b64encode(token.encode()).decode()}
    return {"Authorization": f"Bearer {token}"}
