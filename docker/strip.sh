#!/bin/sh
# Remove from the folder $1 of Python packages what running them does not need: C++ headers, static
# libraries, test programs and test suites. Compiled Python stays: a read-only root could not write
# it, and without it every start and every health check would compile what they import.
set -eu
cd "$1"
rm -rf torch/include torch/test torch/share
find . -path './torch/bin/*' ! -name torch_shm_manager -delete
find . -name '*.a' -delete
find . -type d \( -name tests -o -path './nvidia/*/include' \) -prune -exec rm -r {} +
