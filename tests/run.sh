#!/usr/bin/env bash
# Runs every test and counts what was skipped for want of something on this machine. Tests of kernels run on
# softcuda, with the wheels' NVRTC, where both are there; kernels that were compiled are kept in target/kernels.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target
if [ -f target/softcuda/libcuda.so.1 ]; then
    export LD_LIBRARY_PATH="$PWD/target/softcuda:$PWD/target/cuda-wheels/nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
export NDARTS_CACHE="${NDARTS_CACHE:-$PWD/target/kernels}"
log=target/test.log
status=0
cargo test --workspace -- --show-output >"$log" 2>&1 || status=$?
# The tests' own lines, without the output of those that passed.
grep -E '^(test |test result|running |     Running|   Doc-tests|error|warning|failures:|---- |thread )' "$log" || true
if [ "$status" -ne 0 ]; then
    sed -n '/^failures:/,$p' "$log" | head -n 200
    tail -n 40 "$log"
fi
echo
grep -h '^skipped: ' "$log" | sort -u || true
echo "tests skipped: $(grep -c '^skipped: ' "$log" || true)"
exit "$status"
