# Two commands do all the set-up: `make test` and `make bench`.
#
# .venv/.installed stands for "the package and its tools are installed from these files";
# it is made anew when one of them changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := setup.py pyproject.toml fastattn/implementations/_native.pyx \
          $(wildcard src_cpp/*.hpp src_cpp/*.cpp src_cpp/*/*.hpp src_cpp/*/*.cpp)

.PHONY: help test test-thorough bench roofline tuned preview report chart peers replay compare history browser \
        lint sanitize clean distclean

help:
	@echo "make test       set up .venv, build, and run the tests"
	@echo "make bench      benchmark the current commit with asv, publish, print a table: PROFILE=full"
	@echo "make roofline   fraction of the machine's peak for each regime, of this working tree"
	@echo "make preview    serve the published pages"
	@echo "make compare    two revisions in turns, a verdict for each benchmark: BASE=v1 [HEAD=v2]"
	@echo "make history    the ratio tracks of the last commits: STEPS=20"
	@echo "make report     the study's Table 1 and Figure 1 on this machine, as one page: report/"
	@echo "make chart      draw the README's picture from the last make bench"
	@echo "make peers      compare with other libraries: ARGS='--cells small,decode --threads 1'"
	@echo "make tuned      tuned calls against the default, over the workloads"
	@echo "make replay     the tuner beside its rivals, on recorded tables: ARGS='replay --quick'"
	@echo "make browser    a headless browser for the tests of pages"
	@echo "make lint       ruff and mypy"
	@echo "make sanitize   the tests of the C++ side under AddressSanitizer and UBSan"
	@echo "make clean      remove .venv, builds and caches; distclean: also what was measured"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

# Numba's cache starts empty, because coverage sees the code generators only while they generate.
test: $(VENV)/.installed
	rm -rf build/numba-cache
	NUMBA_CACHE_DIR=$(CURDIR)/build/numba-cache $(BIN)/python -m pytest -n 2 --dist worksteal \
		--cov --cov-report=term --cov-fail-under=95

test-thorough: $(VENV)/.installed
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest

# asv builds the package itself, in an environment of its own.
$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*project["optional-dependencies"]["bench"], sep="\n")' > $(VENV)/bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/bench.txt
	-$(BIN)/python -m benchmarks.vendor
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

compare: $(VENV)/.bench
	$(BIN)/python -m benchmarks.paired $(or $(BASE),$(error say which revision: make compare BASE=HEAD~1)) \
		$(or $(HEAD),HEAD) $(ARGS)

history: $(VENV)/.bench
	$(BIN)/python -m benchmarks.history $(or $(STEPS),10) $(ARGS)

roofline: $(VENV)/.installed
	$(BIN)/python -m benchmarks.roofline

tuned: $(VENV)/.installed
	$(BIN)/python -m benchmarks.tuned_calls $(ARGS)

preview: $(VENV)/.bench
	$(BIN)/python -P -m asv preview

# The report compares with PyTorch only if `make peers` has installed it.
report: $(VENV)/.installed
	$(BIN)/python -m benchmarks.study $(ARGS)

chart: $(VENV)/.bench
	$(BIN)/python -m benchmarks.chart docs/dims.svg

# Other libraries are large: only this target installs them.
$(VENV)/.peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[peers]"
	@touch $@

peers: $(VENV)/.peers
	$(BIN)/python -m benchmarks.peers $(ARGS)

$(VENV)/.rivals: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[tuner-rivals]"
	@touch $@

replay: $(VENV)/.rivals
	$(BIN)/python -m benchmarks.tuner_replay $(or $(ARGS),replay)

# The system's Chromium if there is one or this user may install it, else playwright's own.
browser: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[browser]"
	command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } \
		|| $(BIN)/python -m playwright install chromium

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The extension is built again, in a copy of the tree, with the sanitizers linked in.
sanitize: $(VENV)/.installed
	rm -rf build/sanitize
	mkdir -p build/sanitize
	cp -r setup.py pyproject.toml README.md fastattn src_cpp tests build/sanitize/
	rm -f build/sanitize/fastattn/implementations/*.so
	cd build/sanitize && FASTATTN_CXXFLAGS="-g1 -O1 -fsanitize=address,undefined -fno-omit-frame-pointer" \
		../../$(BIN)/python setup.py --quiet build_ext --inplace
	cd build/sanitize && ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) $$($${CXX:-g++} -print-file-name=libubsan.so)" \
		PYTHONPATH=. ../../$(BIN)/python -m pytest -q -s -p no:cacheprovider tests/test_kernels.py \
		tests/test_agreement.py tests/test_stability.py tests/test_poison.py tests/test_rows.py tests/test_masks.py \
		tests/test_narrow.py tests/test_split.py tests/test_dense.py -k cython

clean:
	rm -rf $(VENV) build *.egg-info fastattn/implementations/*.so .mypy_cache .pytest_cache .ruff_cache \
		.asv/env .asv/html .asv/vendor .asv/paired/installed .asv/paired/rounds .asv/paired/wheels
	find fastattn benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# Measurements cannot be made again in a minute, so `clean` leaves them.
distclean: clean
	rm -rf .asv .peers report
