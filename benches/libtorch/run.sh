#!/usr/bin/env bash
# Builds `ndarts` and the libtorch benchmark, proves that both compute the same, and compares their
# speed. Arguments go to `compare`: --small, --rounds N, --iters N. `make bench-libtorch` runs this
# after installing PyTorch into target/venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$PWD/target/venv
target=${CARGO_TARGET_DIR:-$PWD/target}
threads=${THREADS:-$(nproc)}
if [ ! -x "$venv/bin/python" ]; then
    echo "error: expected PyTorch in target/venv, found none; run make bench-libtorch" >&2
    exit 1
fi
if ! command -v c++ >/dev/null; then
    echo "error: expected a C++ compiler named c++ for tch's bindings, found none; install g++" >&2
    exit 1
fi

# torch-sys asks the active Python where the wheel's headers and libraries are.
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH LIBTORCH_USE_PYTORCH=1
cargo build --release -p ndarts -p ndarts-libtorch-bench --features ndarts-libtorch-bench/libtorch
ndarts=$target/release/ndarts
bench=$target/release/ndarts-libtorch-bench
libraries=$(python -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# The proof, on the bundled digits enlarged to 32×32.
case " $* " in
*" --small "*) proofs=("darts 4 3 8" "nb201 4 1 8") ;;
*) proofs=("darts 16 8 8" "nb201 16 5 8") ;;
esac
for proof in "${proofs[@]}"; do
    read -r space channels cells batch <<<"$proof"
    file=$target/libtorch-proof-$space.safetensors
    "$ndarts" probe --space "$space" --channels "$channels" --cells "$cells" --batch "$batch" \
        --image-size 32 --neumann-terms 3 --gamma 0.01 --device cpu --threads "$threads" --out "$file" >/dev/null
    "$bench" prove --threads "$threads" "$file"
done

echo "$(date +%F), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $threads threads," \
    "$(python -c 'import torch; print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())')"
echo
"$bench" compare --ndarts "$ndarts" --threads "$threads" "$@"
