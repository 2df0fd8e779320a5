"""Models on OpenI (openi.pcl.ac.cn).

Routes as in OpenI's own client (PyPI ``openi`` 3.0.1): files of a model by name under ``/aimodel``,
and the older ``/OWNER/REPOSITORY/sdk`` routes, which find a model of a repository first. They say
a file's size, but no checksum. A download is a redirect to a signed address.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from kit.errors import EnvironmentNotReady
from kit.weights.catalogue import Source
from kit.weights.fetch.ask import request_json
from kit.weights.fetch.http import Location, RefusedError
from kit.weights.fetch.sources import Offer, Offers
from kit.weights.fetch.transfer import Expected

_Query = tuple[str, dict[str, str]]


def offers(source: Source, files: Mapping[str, str], headers: Mapping[str, str]) -> Offers:
    """Look up ``files`` (``MODEL/FILE``, by path in the set's folder).

    Raises:
        EnvironmentNotReady: OpenI is out of reach, or no route knows such a file.
    """
    return {file: _offer(source, path, headers) for file, path in files.items()}


def _offer(source: Source, path: str, headers: Mapping[str, str]) -> Offer:
    model, _, name = path.partition("/")
    repository = source.options["repository"]
    owner = repository.partition("/")[0]
    by_name = ((repository, path), (f"{owner}/{model}", name))
    for subject, file in by_name:
        query = {"aimodel_name": subject, "file_name": file, "parent_dir": ""}
        meta = _ask(source, "/aimodel/file/meta", query, headers)
        if meta is not None:
            return _at(source, ("/aimodel/file", query), meta.get("ContentLength"), path, headers)
    found = _ask(source, f"/{repository}/sdk/get_model", {"name": model}, headers)
    found = found or {}
    listed = found.get("modelFileList")
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict) and entry.get("FileName") == name and "id" in found:
            route = f"/{repository}/sdk/download_model_file/{quote(str(found['id']))}"
            return _at(source, (route, {"fileName": name}), entry.get("Size"), path, headers)
    raise EnvironmentNotReady(
        f"OpenI has no {path} in {repository}",
        hint=f"if it needs an account, set {source.token_variable}; "
        "or try another --source or --mirror",
    )


def _ask(
    source: Source, route: str, query: Mapping[str, str], headers: Mapping[str, str]
) -> dict[str, Any] | None:
    """The ``data`` of OpenI's answer; None where it says that there is no such thing."""
    api = Location(_api(source, route), headers, source.token_variable)
    try:
        answer = request_json("GET", api, params=query)
    except RefusedError:
        return None
    data = answer.get("data") if isinstance(answer, dict) else None
    return data if isinstance(data, dict) and str(answer.get("code", "0")) == "0" else None


def _at(
    source: Source, query: _Query, size: object, path: str, headers: Mapping[str, str]
) -> Offer:
    size_bytes = size if type(size) is int and 0 < size < 1 << 63 else None
    return Offer(
        partial(_locate, source, query, headers),
        Expected(size_bytes),
        "observed",
        f"{source.options['endpoint']}/{source.options['repository']} {path}",
    )


def _locate(source: Source, query: _Query, headers: Mapping[str, str]) -> Location:
    route, parameters = query
    url = f"{_api(source, route)}?{urlencode(parameters)}"
    return Location(url, headers, source.token_variable)


def _api(source: Source, route: str) -> str:
    return f"{source.options['endpoint']}/api/v1{route}"
