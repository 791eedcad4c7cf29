# What a newcomer needs: `make test`. Everything is built into target/.

.PHONY: test bench check-probe softcuda wheels clean

# Every test; what a test could not find here is listed and counted at the end.
test:
	@tests/run.sh

# Throughput of a weight step and of Hessian-vector products, on both spaces.
bench:
	cargo bench --bench step -- darts 16 8 64
	cargo bench --bench step -- darts 16 8 16
	cargo bench --bench step -- nb201 16 5 64

# One probe of each space, recomputed in float64 by PyTorch (about 1 GB of wheels, into target/).
PROBE_DATA ?= digits
check-probe: target/venv/.done
	cargo build --release
	for space in nb201 darts; do for terms in 0 1 3; do \
	  target/release/ndarts probe --space $$space --data $(PROBE_DATA) --channels 8 \
	    --cells $$([ $$space = darts ] && echo 3 || echo 1) --batch 8 --neumann-terms $$terms \
	    --out target/probe-$$space-$$terms.safetensors && \
	  target/venv/bin/python tests/torch/check_probe.py target/probe-$$space-$$terms.safetensors \
	  || exit 1; done; done

target/venv/.done:
	mkdir -p target
	python3 -m venv target/venv
	target/venv/bin/pip install --quiet torch numpy safetensors
	touch $@

# The CUDA driver in software: `LD_LIBRARY_PATH=target/softcuda PROGRAM` runs a CUDA program on the CPU.
softcuda:
	cargo build --release -p softcuda
	mkdir -p target/softcuda
	cp "$${CARGO_TARGET_DIR:-target}/release/libsoftcuda.so" target/softcuda/.libcuda.so.1
	mv target/softcuda/.libcuda.so.1 target/softcuda/libcuda.so.1
	ln -sf libcuda.so.1 target/softcuda/libcuda.so

# NVRTC, the CUDA headers, ptxas and nvdisasm (about 1 GB unpacked), into target/cuda-wheels.
wheels:
	@tests/softcuda/tools/wheels.sh

clean:
	cargo clean
