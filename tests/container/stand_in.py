"""Images in which a stand-in for the server behaves as it is told, at once and without torch."""

import shutil
import tempfile
from pathlib import Path

from tests.container.containers import docker
from tests.e2e.kit_process import HERE

REPOSITORY = "spark-kit-stand-in"
REWRITES = "0123abcd"
_DOCKERFILE = """\
FROM {base}
COPY kit server.py /stand-in/
ENV PATH=/stand-in:$PATH STAND_IN={behaviour}
LABEL spark-kit.upstream.rewrites={rewrites} build={build}
ENTRYPOINT ["kit", "serve", "/model"]
"""
_KIT = """\
#!/bin/sh
case "$1" in
serve) exec python3 -u /stand-in/server.py "$2" ;;
health) exec python3 -c "
import urllib.request
urllib.request.urlopen('http://127.0.0.1:$KIT_PORT/health/ready')" ;;
esac
"""


def build_stand_in(base: str, behaviour: str, *, tag: str | None = None, build: int = 1) -> str:
    """Build an image on ``base``, which has Python; returns its name.

    ``build`` tells images apart that behave the same.
    """
    name = f"{REPOSITORY}:{tag or behaviour}"
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        shutil.copy(HERE / "stand_in_server.py", context / "server.py")
        (context / "kit").write_text(_KIT)
        (context / "kit").chmod(0o755)
        text = _DOCKERFILE.format(base=base, behaviour=behaviour, rewrites=REWRITES, build=build)
        (context / "Dockerfile").write_text(text)
        docker("build", "--quiet", "--tag", name, str(context))
    return name
