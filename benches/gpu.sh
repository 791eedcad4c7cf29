#!/usr/bin/env bash
# What there is to measure on a GPU, in one report: first that results are right, then times, then what each kernel
# launches, moves and takes. `make bench-gpu` runs it.
#
#     benches/gpu.sh [DEVICE [REPORT]]        DEVICE: cuda or cuda:N [cuda]; REPORT: a file [target/gpu-report.txt]
#
# BATCH [64], CHANNELS [16], CELLS [8] and ITERS [20] make it smaller. libtorch on the same GPU stands beside it where
# target/venv has a PyTorch with CUDA (benches/libtorch/run.sh builds the benchmark). On softcuda it goes through, and its
# report says so wherever a time stands, as that is a CPU's:
#
#     BATCH=2 CHANNELS=4 CELLS=3 ITERS=1 SOFTCUDA_CHECKS=off benches/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-cuda}
report=${2:-target/gpu-report.txt}
batch=${BATCH:-64} channels=${CHANNELS:-16} cells=${CELLS:-8} iters=${ITERS:-20}
small=$((batch < 16 ? batch : 16))
probed_batch=$((batch < 8 ? batch : 8)) probed_channels=$((channels < 8 ? channels : 8))
target=${CARGO_TARGET_DIR:-$PWD/target}
ndarts=${NDARTS:-$target/release/ndarts}
[ -n "${NDARTS:-}" ] || cargo build --release
mkdir -p "$(dirname "$report")"
partial=$(mktemp "$report.XXXXXX")
files=$(mktemp -d)
trap 'rm -rf "$files" "$partial"' EXIT

say() { printf '%s\n' "$@" | tee -a "$partial"; }
# Runs a command, its output into the report; a failure ends the script.
run() {
    say "" "\$ $*"
    "$@" 2>&1 | tee -a "$partial"
}

say "ndarts on a GPU, $(date -u +%FT%TZ)"
# softcuda claims to be the GPU whose limits it has, so the driver that is loaded tells, not the device's name.
driver=$(LD_DEBUG=libs "$ndarts" devices 2>&1 | sed -n 's/.*calling init: \(.*libcuda\.so.*\)/\1/p' | head -n 1)
note=
if [ -n "$driver" ] && grep -q SOFTCUDA_DEVICE "$driver"; then
    note="SOFTCUDA: no GPU was used; times are a CPU's and say nothing of a GPU."
    say "$note"
fi
say "driver: ${driver:-none}"
run "$ndarts" --version
run "$ndarts" devices
command -v nvidia-smi >/dev/null &&
    run nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv

say "" "== Correctness =="
# Probes on the GPU and on the CPU from the same seed: they print ‖v_k‖. PyTorch in float64 judges both where it is there.
python=target/venv/bin/python
for space in nb201 darts; do
    depth=$([ $space = darts ] && echo 3 || echo 1)
    for precision in f32 tf32 bf16; do
        for terms in 0 1 3; do
            [ $precision != f32 ] && [ $terms != 1 ] && continue
            file=$files/$space-$precision-$terms.safetensors
            for where in "$device" cpu; do
                [ $precision != f32 ] && [ $where = cpu ] && continue
                run "$ndarts" probe --space $space --channels $probed_channels --cells "$depth" --batch $probed_batch \
                    --gamma 0.001 --neumann-terms $terms --device "$where" --precision $precision --out "$file"
                if [ $precision = f32 ] && [ -x $python ]; then
                    run $python tests/torch/check_probe.py "$file"
                fi
                rm "$file"
            done
        done
    done
done
[ -x $python ] || say "skipped: float64 PyTorch beside the probes: no target/venv (make check-probe makes it)"
run "$ndarts" search --space nb201 --channels 4 --cells 1 --epochs 1 --seed 7 --quiet --device cpu --out "$files/cpu"
run "$ndarts" search --space nb201 --channels 4 --cells 1 --epochs 1 --seed 7 --quiet --device "$device" --out "$files/gpu"
if cmp -s "$files/cpu/genotype.txt" "$files/gpu/genotype.txt"; then
    say "the search found the same genotype on both"
else
    say "the genotypes differ: not an error by itself, as rounding decides near ties, but look at both logs"
fi

say "" "== Times ==" ${note:+"$note"}
for precision in f32 tf32 bf16; do
    sizes=(--space darts --channels "$channels" --cells "$cells" --device "$device" --precision $precision)
    run "$ndarts" bench "${sizes[@]}" --batch "$batch" --iters "$iters" --what step,forward
    run "$ndarts" bench "${sizes[@]}" --batch "$small" --iters "$iters" --what hvp,hypergrad,es --neumann-terms 3
    run "$ndarts" bench --space nb201 --channels "$channels" --batch "$batch" --iters "$iters" --what step \
        --device "$device" --precision $precision
done
libtorch=$target/release/ndarts-libtorch-bench
if [ -x "$libtorch" ] && [ -x $python ] && $python -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    libraries=$($python -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
    for layout in nchw channels-last; do
        for work in step:$batch forward:$batch hvp:$small hypergrad:$small es:$small; do
            LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} run "$libtorch" measure --what "${work%:*}" \
                --space darts --channels "$channels" --cells "$cells" --batch "${work#*:}" --iters "$iters" \
                --threads "$(nproc)" --layout $layout --device "$device"
        done
    done
else
    say "skipped: libtorch on the same GPU: no $libtorch, or no PyTorch with CUDA in target/venv"
fi

say "" "== Kernels ==" ${note:+"$note"}
for precision in f32 tf32 bf16; do
    run "$ndarts" profile --space darts --channels "$channels" --cells "$cells" --batch "$batch" --device "$device" \
        --precision $precision
done

say "" "== For Nsight =="
step="$ndarts bench --what step --space darts --channels $channels --cells $cells --batch $batch --iters 3 --device $device"
profile="$ndarts profile --space darts --channels $channels --cells $cells --batch $batch --device $device"
say "nsys profile --trace=cuda,nvtx --cuda-graph-trace=node --output target/ndarts-step $step"
say "ncu --set full --nvtx --target-processes all --export target/ndarts-kernels $profile"
mv "$partial" "$report"
echo "report: $report"
