"""Write what an image holds as CycloneDX JSON: packages of Python and Debian, upstream's code."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MANIFEST = Path("/opt/spark/rewritten/spark-kit.json")


def python_packages() -> dict[str, Any]:
    """The document with the packages that the image's Python finds."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "/opt/venv/bin/python"]
    command += ["--output-reproducible", "--output-format", "JSON"]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def debian_packages() -> list[dict[str, Any]]:
    """The packages of the base image."""
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [
        {
            "type": "library",
            "bom-ref": f"deb:{name}:{architecture}",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{version}?arch={architecture}",
        }
        for name, version, architecture in (line.split() for line in text.splitlines())
    ]


def upstream() -> dict[str, Any]:
    """The vendored repository."""
    manifest = json.loads(MANIFEST.read_bytes())
    return {
        "type": "application",
        "bom-ref": "upstream",
        "name": manifest["repository"].rpartition("/")[2],
        "version": manifest["commit"],
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "externalReferences": [{"type": "vcs", "url": manifest["repository"]}],
        "pedigree": {"notes": f"rewritten by spark-kit, rewrites {manifest['digest']}"},
    }


def main(output: str) -> None:
    """Write the document to ``output``."""
    document = python_packages()
    document["metadata"]["component"] = {
        "type": "container",
        "bom-ref": "image",
        "name": "spark-kit",
    }
    document["components"] += [*debian_packages(), upstream()]
    Path(output).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
