#!/usr/bin/env bash
# Installs NVRTC, the CUDA headers, ptxas and nvdisasm from Python wheels into target/cuda-wheels.
# Does nothing when exactly these versions are there already.
set -euo pipefail
cd "$(dirname "$0")/../../.."

# One toolkit: CUDA 13.5. The C++ library headers (cccl) have a numbering of their own.
packages=(
    nvidia-cuda-nvrtc==13.5.37
    nvidia-cuda-nvcc==13.5.37
    nvidia-cuda-runtime==13.5.37
    nvidia-cuda-crt==13.5.37
    nvidia-nvvm==13.5.37
    nvidia-cuda-nvdisasm==13.5.37
    nvidia-cuda-cccl==13.3.5.0.6
)

folder=target/cuda-wheels
stamp=$folder/.installed
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "${packages[*]}" ]; then
    exit 0
fi
mkdir -p target
# A half-installed folder must never look like a whole one: install beside it, then rename.
rm -rf "$folder.new"
if ! python3 -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 30 --no-deps \
    --target "$folder.new" "${packages[@]}"; then
    rm -rf "$folder.new"
    echo "wheels: pip could not install ${packages[*]} (offline, or no pip?);" \
        "tests that compile CUDA C++ are skipped until 'make wheels' succeeds" >&2
    exit 1
fi
printf '%s' "${packages[*]}" >"$folder.new/.installed"
rm -rf "$folder"
mv "$folder.new" "$folder"
echo "wheels: installed into $folder"
