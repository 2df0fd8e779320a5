"""Loading side by side: upstream as it is, with the published fix, with the kit's stream; native.

The same as `kit bench loaders`. Needs upstream (`kit upstream fetch`) and a checkpoint in its
format:

    python scripts/make_checkpoint.py /data/random --gigabytes 1.2
    python scripts/bench_loaders.py /data/random --json loaders.json --png loaders.png

At 13B: make_checkpoint.py --layers 40 makes 53 GB; the converted copy beside it takes 27 GB more.
"""

import sys

from kit.cli.main import run

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "loaders"]
    run()
