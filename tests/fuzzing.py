"""How long the fuzz targets run: bounded in CI, as long as wanted by hand (CONTRIBUTING.md)."""

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("KIT_FUZZ_EXAMPLES", "300"))
"""For each target: with 300 all of them take a minute."""

FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
