# What a newcomer needs: `make test`. Everything is built into target/.

.PHONY: test counts bench bench-gpu bench-libtorch check-probe softcuda wheels clean

# The PyTorch of checks and comparisons: the one that benches/libtorch is built for.
TORCH = 2.13.0

# Every test; what a test could not find here is listed and counted at the end. Kernels are compiled by the
# wheels' NVRTC and run on softcuda; where the wheels cannot be had, the tests that need them are skipped.
test:
	-@tests/softcuda/tools/wheels.sh
	-@$(MAKE) --no-print-directory softcuda
	@tests/run.sh

# What the kernels of DARTS at 16 channels and 8 cells launch and move, counted on softcuda and held to their
# budgets (tests/budgets.rs); and every specialisation compiled for every supported GPU. Minutes.
counts: wheels softcuda
	cargo test --test budgets --test kernels_compile -- --include-ignored --nocapture

# On a machine with a GPU: correctness first, then times; one report in target/gpu-report.txt.
bench-gpu:
	benches/gpu.sh

# Each op and pass against the machine's measured peaks, then the engine's works on both spaces.
bench:
	cargo bench --bench passes
	cargo build --release
	target/release/ndarts bench --what step,forward
	target/release/ndarts bench --what hvp,hypergrad,es --batch 16 --neumann-terms 3
	target/release/ndarts bench --space nb201 --what step
	target/release/ndarts bench --space nb201 --what step --channels 8 --cells 1

# The same works in libtorch beside ours: a proof that both compute the same, then the table. Needs a
# C++ compiler and Python with venv; PyTorch takes 5 GB in target/. ARGS=--small tries it out.
ARGS ?=
bench-libtorch: target/venv/.torch-$(TORCH)
	benches/libtorch/run.sh $(ARGS)

# One probe of each space, recomputed in float64 by PyTorch (5 GB, into target/).
PROBE_DATA ?= digits
check-probe: target/venv/.torch-$(TORCH)
	cargo build --release
	for space in nb201 darts nasnet; do for terms in 0 1 3; do \
	  target/release/ndarts probe --space $$space --data $(PROBE_DATA) --channels 8 \
	    --cells $$([ $$space = nb201 ] && echo 1 || echo 3) --batch 8 --neumann-terms $$terms \
	    --out target/probe-$$space-$$terms.safetensors && \
	  target/venv/bin/python tests/torch/check_probe.py target/probe-$$space-$$terms.safetensors \
	  || exit 1; done; done

target/venv/.torch-$(TORCH):
	mkdir -p target
	python3 -m venv target/venv
	target/venv/bin/pip install --quiet torch==$(TORCH) numpy safetensors setuptools
	touch $@

# The CUDA driver in software: `LD_LIBRARY_PATH=target/softcuda PROGRAM` runs a CUDA program on the CPU.
softcuda:
	cargo build --release -p softcuda
	mkdir -p target/softcuda
	cp "$${CARGO_TARGET_DIR:-target}/release/libsoftcuda.so" target/softcuda/.libcuda.so.1
	mv target/softcuda/.libcuda.so.1 target/softcuda/libcuda.so.1
	ln -sf libcuda.so.1 target/softcuda/libcuda.so

# NVRTC, the CUDA headers, ptxas and nvdisasm (about 500 MB), into target/cuda-wheels.
wheels:
	@tests/softcuda/tools/wheels.sh

clean:
	cargo clean
