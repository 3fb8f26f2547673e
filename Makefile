# Every target makes what it needs, in .venv, from nothing but Python 3.11+, make and git.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PARITY_VENV ?= .venv-parity
PEERS_VENV ?= .venv-peers
WORKERS ?= 2
IMAGE ?= hlserve

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PARITY_READY := $(PARITY_VENV)/.ready
PEERS_READY := $(PEERS_VENV)/.ready
MLSERVER_VENV ?= .venv-mlserver
KSERVE_VENV ?= .venv-kserve
FUZZ_VENV ?= .venv-fuzz
FUZZ_READY := $(FUZZ_VENV)/.ready
FUZZ_SECONDS ?= 1200
SERVING_BUILD := build/serving
# The whole tree again, with serving compiled in place.
COMPILED := build/compiled
# The runtime is the one that hlserve serves through, in every environment.
SERVING_RUNTIME := $(shell sed -n 's/^\(onnxruntime==[^ ]*\).*/\1/p' requirements/test.txt)
MLSERVER := mlserver==1.7.1 $(SERVING_RUNTIME)
KSERVE := kserve==0.21.0 $(SERVING_RUNTIME)
SERVING_PACKAGES := g++ pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libnghttp2-dev nghttp2-client libssl-dev
FUZZER := atheris==3.0.0
PEERS := nncf==3.4.0 openvino==2026.4.1 onnxruntime==1.31.1 onnx==1.23.2
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
CHECKED := hlserve compress tests tools benchmarks examples setup.py
LOCK := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-strip-extras \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

export ORT_DISABLE_TELEMETRY := 1
# Tests run WORKERS at a time: BLAS threads beside them would only wait for each other.
test check parity slow test-compiled: export OPENBLAS_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-compiled compiled check slow lint format types imports proto proto-check parity parity-env fuzz peers bench soak serving-packages serving-peers bench-serving image lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with the pinned requirements and hlserve itself

$(READY): requirements/test.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hlserve needs Python 3.11 or newer, here is " + sys.version.split()[0] + "; try make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/test.txt
	$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(PARITY_READY): requirements/test.txt requirements/parity.txt pyproject.toml
	test -x $(PARITY_VENV)/bin/python || $(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/test.txt -r requirements/parity.txt
	$(PARITY_VENV)/bin/python $(PIP_INSTALL) 'torch==2.13.0'
	$(PARITY_VENV)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(PEERS_READY):
	test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python $(PIP_INSTALL) $(PEERS)
	touch $@

$(FUZZ_READY): requirements/cpu.txt pyproject.toml
	test -x $(FUZZ_VENV)/bin/python || $(PYTHON) -m venv $(FUZZ_VENV)
	$(FUZZ_VENV)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/cpu.txt
	$(FUZZ_VENV)/bin/python $(PIP_INSTALL) $(FUZZER)
	touch $@

demo: $(READY)  ## train, compress, serve and query two networks on real images
	$(BIN)/hlserve demo

test: $(READY)  ## the fast test suite
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not slow' --ignore tests/parity

check: $(READY) lint types imports proto-check  ## everything that CI runs, but for parity
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not slow' --ignore tests/parity

slow: $(READY)  ## the tests that take minutes: trainings to the accuracy that is claimed
	$(BIN)/python -m pytest -m slow --ignore tests/parity

lint: $(READY)  ## ruff: format and rules
	$(BIN)/ruff format --check $(wildcard $(CHECKED))
	$(BIN)/ruff check $(wildcard $(CHECKED))

format: $(READY)  ## let ruff put the format and what it can of the rules right
	$(BIN)/ruff check --fix $(wildcard $(CHECKED))
	$(BIN)/ruff format $(wildcard $(CHECKED))

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

imports: $(READY)  ## import-linter: who may import whom
	$(BIN)/lint-imports

proto: $(READY)  ## make hlserve/pb anew from proto/
	$(BIN)/python tools/generate_proto.py

proto-check: $(READY)  ## is hlserve/pb what proto/ makes?
	rm -rf build/pb
	$(BIN)/python tools/generate_proto.py build/pb >/dev/null
	diff -r -x __pycache__ -x __init__.py -x messages.py build/pb hlserve/pb

parity: $(PARITY_READY)  ## compare with PyTorch and be called by kserve, in an environment of its own
	$(PARITY_VENV)/bin/python -m pytest -n $(WORKERS) tests/parity tests/serving/test_other_clients.py

parity-env: $(PARITY_READY)

fuzz: $(FUZZ_READY)  ## FUZZ_SECONDS of wrong bytes, guided by coverage, for our HTTP/2 transport
	PYTHONPATH=. $(FUZZ_VENV)/bin/python tools/fuzz.py --seconds $(FUZZ_SECONDS)

peers: $(PEERS_READY)  ## make .venv-peers: the quantizers that `make bench` compares with

bench: $(PARITY_READY) $(READY) $(PEERS_READY)  ## benchmarks beside their peers: reported, never a gate
	$(PARITY_VENV)/bin/python benchmarks/training.py
	PYTHONPATH=. $(BIN)/python -m benchmarks.batching_proof
	PYTHONPATH=. $(BIN)/python -m benchmarks.serving_overload
	PYTHONPATH=. $(BIN)/python -m benchmarks.compression
	PYTHONPATH=. $(BIN)/python -m benchmarks.compression_elsewhere

$(COMPILED)/.ready: $(READY) setup.py pyproject.toml $(shell git ls-files hlserve)
	rm -rf $(COMPILED)
	mkdir -p $(COMPILED)
	git ls-files -z | xargs -0 cp --parents --target-directory $(COMPILED)
	cd $(COMPILED) && HLSERVE_COMPILE=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd $(COMPILED) && $(CURDIR)/$(BIN)/python -c 'from hlserve.serving.builds import is_compiled; assert is_compiled()'
	touch $@

compiled: $(COMPILED)/.ready  ## compile serving's hot path, in build/compiled (needs a C compiler)

test-compiled: $(COMPILED)/.ready  ## the tests of serving over the compiled code
	cd $(COMPILED) && PYTHONPATH=$(CURDIR)/$(COMPILED) HLSERVE_SHARED=$${HLSERVE_SHARED:-$(CURDIR)/../shared} \
	  $(CURDIR)/$(BIN)/python -m pytest -n $(WORKERS) -m 'not slow' tests/serving tests/fuzz

soak: $(READY)  ## half an hour of everything that happens to a server: nothing wrong, lost or leaked
	PYTHONPATH=. $(BIN)/python -m benchmarks.serving_soak --minutes 30

serving-packages:  ## install Debian's packages for the C++ side of `make bench-serving` (as root)
	apt-get update
	apt-get install --yes --no-install-recommends $(SERVING_PACKAGES)

$(MLSERVER_VENV)/.ready:
	test -x $(MLSERVER_VENV)/bin/python || $(PYTHON) -m venv $(MLSERVER_VENV)
	$(MLSERVER_VENV)/bin/python $(PIP_INSTALL) $(MLSERVER)
	touch $@

$(KSERVE_VENV)/.ready:
	test -x $(KSERVE_VENV)/bin/python || $(PYTHON) -m venv $(KSERVE_VENV)
	$(KSERVE_VENV)/bin/python $(PIP_INSTALL) $(KSERVE)
	touch $@

# A peer that cannot be installed is left out of the table, with its reason.
serving-peers: $(SERVING_BUILD)/load_client  ## build the load client, make the peers of `make bench-serving`
	-$(MAKE) $(MLSERVER_VENV)/.ready
	-$(MAKE) $(KSERVE_VENV)/.ready
	-$(MAKE) $(SERVING_BUILD)/canned_server

$(SERVING_BUILD)/load_client: $(wildcard benchmarks/cpp/load_client.cc benchmarks/cpp/*.h)
	mkdir -p $(@D)
	g++ -std=c++17 -O2 -Wall -Wextra -o $@ $< -lnghttp2 -lssl -lcrypto

$(SERVING_BUILD)/canned_server: benchmarks/cpp/canned_server.cc benchmarks/cpp/canned.proto
	mkdir -p $(@D)
	protoc --proto_path=benchmarks/cpp --cpp_out=$(@D) --grpc_out=$(@D) --plugin=protoc-gen-grpc=$$(command -v grpc_cpp_plugin) canned.proto
	g++ -std=c++17 -O2 -Wall -Wextra -I$(@D) -o $@ $< $(@D)/canned.pb.cc $(@D)/canned.grpc.pb.cc $$(pkg-config --libs grpc++ protobuf)

bench-serving: $(READY) serving-peers  ## server CPU per request beside MLServer, KServe and C++ gRPC: reported, never a gate
	PYTHONPATH=. $(BIN)/python -m benchmarks.serving

image:  ## the container image for the CPU; `make image TARGET=gpu` for the other
	docker build $(if $(TARGET),--target $(TARGET)) --tag $(IMAGE)$(if $(TARGET),:$(TARGET)) .

lock: $(READY)  ## pin requirements/*.txt anew, the widest set first
	$(BIN)/python $(PIP_INSTALL) pip-tools
	CUSTOM_COMPILE_COMMAND='make lock' $(LOCK) --extra cpu --extra report --extra search --extra data --extra otel --extra uvloop -o requirements/test.txt pyproject.toml requirements/test.in
	for runtime in cpu gpu; do \
	  CUSTOM_COMPILE_COMMAND='make lock' $(LOCK) --extra $$runtime --extra uvloop -c requirements/test.txt -o requirements/$$runtime.txt pyproject.toml || exit 1; \
	done
	for set in build parity; do \
	  CUSTOM_COMPILE_COMMAND='make lock' $(LOCK) -o requirements/$$set.txt requirements/$$set.in || exit 1; \
	done

clean:  ## remove the environments and everything that was built
	rm -rf $(VENV) $(PARITY_VENV) $(PEERS_VENV) $(MLSERVER_VENV) $(KSERVE_VENV) $(FUZZ_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find $(wildcard $(CHECKED)) -name __pycache__ -type d -prune -exec rm -rf {} +
