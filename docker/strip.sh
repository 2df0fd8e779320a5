#!/bin/sh
# Remove from the folder $1 of Python packages what running them does not need. Compiled Python
# stays: a read-only root could not write it, and without it every start and every health check
# would compile what it imports.
set -eu
cd "$1"

# C++ headers, sources and static libraries, test programs, test suites.
rm -rf torch/include torch/test torch/share
find . -path './torch/bin/*' ! -name torch_shm_manager -delete
find . -type d \( -name tests -o -path './nvidia/*/include' \) -prune -exec rm -r {} +
find . -type f \( -name '*.a' -o -name '*.cpp' \) -delete

# Of CUDA's libraries, those that no other one names: cuSOLVER for several GPUs, an NVRTC with
# another allocator, device code for compilers.
find . -path './nvidia/*' \( -name 'libcusolverMg.so.*' -o -name 'libnvrtc*.alt.so.*' \
	-o -name '*.bc' \) -delete
