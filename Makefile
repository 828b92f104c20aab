# Everything runs in .venv, which the first target that needs it makes: Python >= 3.10, make and a C++17 compiler are
# enough. Stamps in it tell what is done, so a second run starts at once and changed C++ sources are built again.
PYTHON ?= python3
GPU_PYTHON := $(shell command -v $(PYTHON))
VENV ?= .venv
# Which torch goes into .venv. Where plain pip would take a build with CUDA and the one for CPUs is wanted:
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# The paper's system has a .venv of its own: timm wants torchvision, which goes with exactly one torch.
VENV_LPS ?= .venv-lps
TORCH_LPS ?= torch==2.14.1 torchvision==0.29.1
PYTEST_ARGS ?=
JOBS ?= auto
BENCH_ARGS ?=
LPS_FUZZ_EXAMPLES ?= 5000

BIN := $(VENV)/bin
BIN_LPS := $(VENV_LPS)/bin
SOURCES := CMakeLists.txt $(filter-out %.md,$(wildcard csrc/*.* csrc/*/*.*))
CPP := $(filter-out CMakeLists.txt,$(SOURCES))
# What the kernels depend on besides sources: the compilers that are there, and what the environment says of a build.
SETTINGS := $(foreach tool,c++ g++ clang++ nvcc,$(shell command -v $(tool))) $(foreach name,\
  CC CXX CUDACXX CUDAARCHS CXXFLAGS CUDAFLAGS CMAKE_ARGS LPS_KERNELS_BUILD,$(if $($(name)),$(name)=$($(name))))
export PATH := $(abspath $(BIN)):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-triton test-lps gpu build bench bench-lps fuzz sanitize lint format readme wheel docs info clean \
  distclean FORCE
.DELETE_ON_ERROR:

demo: build
	$(BIN)/python -m benchmarks.demo

test: build
	$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

# Triton's kernels without a GPU: its interpreter, which is slow and has to be chosen before Triton is imported.
test-triton: $(VENV)/.triton
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n $(JOBS) tests/test_triton_interpreter.py $(PYTEST_ARGS)

# The paper's system, python/lps: models, data and experiments.
test-lps: build $(VENV_LPS)/.packages
	$(BIN_LPS)/python -m pytest tests/lps python/lps $(PYTEST_ARGS)

build: $(VENV)/.built

info: build
	$(BIN)/python -m lps_kernels.info

# Paired comparisons; writes benchmarks/results/<machine>.json, a plot beside it, and README's block of ratios.
bench: build
	$(BIN)/python -m pytest benchmarks/test_speed.py --benchmark-json=build/benchmark.json $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.readme --write

# On a machine with an NVIDIA GPU, with the torch that PYTHON has and without .venv or a network: builds, tests and times.
# SMALL=1 tests only, at sizes for a simulated device.
gpu:
	$(or $(GPU_PYTHON),$(error no $(PYTHON) on PATH)) -m benchmarks.gpu $(if $(SMALL),--small) $(GPU_ARGS)

# Whole training steps of the paper's settings against the published method.
bench-lps: build $(VENV_LPS)/.packages
	$(BIN_LPS)/python -m benchmarks.lps.step --json benchmarks/results/science/steps.json $(BENCH_ARGS)

fuzz: build
	LPS_FUZZ_EXAMPLES=$(LPS_FUZZ_EXAMPLES) $(BIN)/python -m pytest -n $(JOBS) tests/test_fuzz.py $(PYTEST_ARGS)

lint: $(VENV)/.packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/python -m benchmarks.readme

format: $(VENV)/.packages
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

readme: $(VENV)/.packages
	$(BIN)/python -m benchmarks.readme --write

wheel: $(VENV)/.packages
	$(BIN)/pip wheel --no-deps --no-build-isolation -w dist .

docs: $(VENV)/.packages
	$(BIN)/pip install -q pdoc
	$(BIN)/pdoc --docformat google -o build/docs lps_kernels

# AddressSanitizer and UndefinedBehaviorSanitizer, in a build of their own and only for the level that runs here.
# libstdc++ is loaded first too, because the sanitizer looks for its __cxa_throw at start; capture=sys leaves it a stderr to
# report on. Compilers of their own (torch.compile, test_install) and bounds on memory know nothing of sanitizers and are
# left out.
SANITIZED := build/sanitize
SANITIZE_TESTS ?= -k "not compile and not memory and not export and not test_install"
sanitize: $(VENV)/.packages
	level=$$($(BIN)/python -c "from lps_kernels import native; print(native.wanted()[0])") && \
	cmake -S . -B $(SANITIZED) -G Ninja -DLPS_CPU_LEVELS=$$level -DLPS_SANITIZE=address,undefined \
	  -DTORCH_ROOT=$$($(BIN)/python -c "import torch; print(torch.__path__[0])") > /dev/null
	cmake --build $(SANITIZED)
	cmake --install $(SANITIZED) --prefix $(SANITIZED)/library > /dev/null
	LPS_KERNELS_LIBRARY_DIR=$(SANITIZED)/library \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	$(BIN)/python -m pytest -n $(JOBS) -p no:cacheprovider --capture=sys $(SANITIZE_TESTS) $(PYTEST_ARGS)

clean:
	rm -rf build dist lps_kernels.egg-info lps_kernels/_*.so lps_kernels/build.json \
	  demo.png .pytest_cache .hypothesis .benchmarks .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './$(VENV_LPS)/*' -prune -exec rm -rf {} +
	rm -f $(VENV)/.built

distclean: clean
	rm -rf $(VENV) $(VENV_LPS)

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q "$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	touch $@

# The kernels are built by the next rule, in sight and only where they changed.
$(VENV)/.packages: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q "setuptools>=77" "cmake>=3.26" ninja
	LPS_KERNELS_BUILD=0 $(BIN)/pip install -q --no-build-isolation -e ".[demo,test,bench,lint]"
	touch $@

$(VENV)/.triton: $(VENV)/.packages
	$(BIN)/pip install -q "triton>=3.6"
	touch $@

# Kernels are the tree's own: they serve every torch from 2.11 on.
$(VENV_LPS)/.packages: pyproject.toml
	$(PYTHON) -m venv $(VENV_LPS)
	$(BIN_LPS)/pip install -q $(TORCH_LPS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN_LPS)/pip install -q "setuptools>=77" "cmake>=3.26" ninja
	LPS_KERNELS_BUILD=0 $(BIN_LPS)/pip install -q --no-build-isolation -e ".[lps,lps-test,test]"
	touch $@

$(VENV)/.settings: export SETTINGS := $(SETTINGS)
$(VENV)/.settings: $(VENV)/.torch FORCE
	@printenv SETTINGS | cmp -s - $@ || printenv SETTINGS > $@

$(VENV)/.built: $(VENV)/.packages $(VENV)/.settings setup.py $(SOURCES)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@
