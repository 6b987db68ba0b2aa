# Each target sets up what it needs; `make help` lists them.
#
# .venv/.installed stands for "the package and its tools are installed from these files".  It is
# made again when one of them changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ADAPTERS := .venv-adapters
NATIVE := setup.py pyproject.toml fastattn/implementations/_native.pyx \
          $(wildcard fastattn/implementations/*.pxd src_cpp/*.hpp src_cpp/*.cpp src_cpp/*/*.hpp src_cpp/*/*.cpp tests/*_model.?pp)

# `python -m` must find the tools in this folder, whatever the user's environment says.
unexport PYTHONSAFEPATH

# The variable of that name as one word for the shell, whatever is in it: neither make nor the
# shell looks inside.
quoted = '$(subst ','\'',$(value $(1)))'
unexport BASE HEAD PROFILE STEPS SECONDS

.PHONY: help test test-thorough test-timing adapters coverage bench roofline tuned preview report chart peers replay compare history browser \
        lint lint-ci sanitize sanitize-threads fuzz clean distclean

help:
	@echo "make test            set up .venv, build, and run the tests"
	@echo "make test-thorough   the same, with many more generated cases"
	@echo "make test-timing     run the tests that assert times; needs an idle machine"
	@echo "make adapters        run the tests of the adapters; installs PyTorch, JAX, transformers and onnx"
	@echo "make coverage        measure test coverage: Python by coverage.py, C++ by gcov"
	@echo "make bench           benchmark the current commit with asv, publish pages, print a table: PROFILE=full"
	@echo "make preview         serve the published pages at http://127.0.0.1:8080"
	@echo "make compare         compare two revisions, a verdict for each benchmark: BASE=v1 [HEAD=v2]"
	@echo "make history         measure the last commits, as ratios to NumPy: STEPS=20"
	@echo "make roofline        measure the machine's limits, and the working tree against them"
	@echo "make report          compare NumPy, Numba and Cython as the study did; writes report/index.html"
	@echo "make chart           draw the README's picture from the last make bench"
	@echo "make peers           compare with other libraries, which it installs: ARGS='--cells small,decode --threads 1'"
	@echo "make tuned           compare tuned calls with the default configuration"
	@echo "make replay          compare the tuner with other optimisers, on recorded tables: ARGS='replay --quick'"
	@echo "make browser         install a headless browser, for the tests of pages"
	@echo "make lint            run ruff, mypy and clang-format"
	@echo "make lint-ci         run actionlint and zizmor on the workflows of hosted CI"
	@echo "make sanitize        run the tests of the C++ code under AddressSanitizer and UBSan"
	@echo "make sanitize-threads  run the tests of threads under ThreadSanitizer"
	@echo "make fuzz            test random calls, with sanitizers and against a reference: SECONDS=60 [ARGS='--seed 1 kernels']"
	@echo "make clean           remove .venv, builds and caches"
	@echo "make distclean       the same, and all stored measurements"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# With the kernels that are only for tests, which no call takes unless it names them.
$(VENV)/.installed: $(NATIVE) | $(VENV)/bin/python
	FASTATTN_TEST_KERNELS=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

# What Numba compiles for the tests stays out of the sources, which may not be writable.
test test-thorough test-timing adapters coverage: export NUMBA_CACHE_DIR := $(CURDIR)/build/numba-cache

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not timing" $(ARGS)

test-thorough: $(VENV)/.installed
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -m "not timing" $(ARGS)

# One at a time, on a machine that does nothing else.
test-timing: $(VENV)/.installed
	$(BIN)/python -m pytest -m timing $(ARGS)

# The libraries are large, so they stay out of $(VENV).  Everything else, this package included, is
# what $(VENV) has.
$(ADAPTERS)/.installed: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m venv --without-pip $(ADAPTERS)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> $(ADAPTERS)/shared.pth
	mv $(ADAPTERS)/shared.pth $(ADAPTERS)/lib/python*/site-packages/
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*project["optional-dependencies"]["adapters"], sep="\n")' > $(ADAPTERS)/requirements.txt
	$(BIN)/python -m pip --python $(ADAPTERS)/bin/python install --quiet --disable-pip-version-check --no-compile \
		-r $(ADAPTERS)/requirements.txt
	@touch $@

adapters: $(ADAPTERS)/.installed
	$(ADAPTERS)/bin/python -m pytest -n 2 --dist worksteal tests/adapters $(ARGS)

# Coverage of Python is that of the whole suite, and counts no function that Numba compiles; of
# C++ that of KERNEL_TESTS, with an extension that gcov has instrumented.
coverage: $(VENV)/.installed
	$(call instrumented,coverage,-O1 -g1 --coverage -fprofile-update=atomic)
	cd build/coverage && PYTHONPATH=. ../../$(BIN)/python -m pytest -q -n 2 -p no:cacheprovider \
		$(KERNEL_TESTS) -k cython
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not timing" --cov --cov-report=term
	cd build/coverage && ../../$(BIN)/gcovr --root . --filter src_cpp/ --merge-lines --txt --sort uncovered-percent

# asv builds the package itself, in an environment of its own.
$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*project["optional-dependencies"]["bench"], sep="\n")' > $(VENV)/bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/bench.txt
	-$(BIN)/python -m perf.vendor
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m perf.run $(if $(value PROFILE),--profile $(call quoted,PROFILE)) $(ARGS)

compare: $(VENV)/.bench
	$(BIN)/python -m perf.paired \
		$(if $(value BASE),$(call quoted,BASE),$(error say which revision: make compare BASE=HEAD~1)) \
		$(if $(value HEAD),$(call quoted,HEAD),HEAD) $(ARGS)

history: $(VENV)/.bench
	$(BIN)/python -m perf.history $(if $(value STEPS),$(call quoted,STEPS),10) $(ARGS)

roofline: $(VENV)/.installed
	$(BIN)/python -m perf.roofline $(ARGS)

tuned: $(VENV)/.installed
	$(BIN)/python -m perf.tuned_calls $(ARGS)

preview: $(VENV)/.bench
	$(BIN)/python -m perf.preview $(ARGS)

# The report compares with PyTorch only if `make peers` has installed it.
report: $(VENV)/.installed
	$(BIN)/python -m perf.study $(ARGS)

chart: $(VENV)/.bench
	$(BIN)/python -m perf.chart docs/dims.svg

# Other libraries are large: only this target installs them.
$(VENV)/.peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[peers]"
	@touch $@

peers: $(VENV)/.peers
	$(BIN)/python -m perf.peers $(ARGS)

$(VENV)/.rivals: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[tuner-rivals]"
	@touch $@

replay: $(VENV)/.rivals
	$(BIN)/python -m perf.tuner_replay $(or $(ARGS),replay)

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
	git ls-files -z "*.cpp" "*.hpp" | xargs -0 $(BIN)/clang-format --dry-run --Werror

# The workflows of hosted CI.
$(VENV)/.lint-ci: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[lint-ci]"
	@touch $@

lint-ci: $(VENV)/.lint-ci
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --persona=pedantic .github

# The tests of the C++ side, less those that a slow build would keep for minutes.
KERNEL_TESTS := $(addprefix tests/test_,$(addsuffix .py,kernels agreement stability poison rows masks decode split dense roofline))

# Build the extension again, with other flags, in a copy of the tree: build/NAME.
define instrumented
	rm -rf build/$(1)
	mkdir -p build/$(1)
	cp -r setup.py pyproject.toml README.md fastattn src_cpp tests build/$(1)/
	rm -f build/$(1)/fastattn/implementations/*.so
	cd build/$(1) && FASTATTN_TEST_KERNELS=1 FASTATTN_CXXFLAGS="$(2)" ../../$(BIN)/python setup.py --quiet build_ext --inplace
endef

# Checks of every pointer in the kernels would take the compiler many minutes, and find little that
# AddressSanitizer does not.  Its alternate signal stack would be too small for the tiles of AMX.
SANITIZE := -g1 -O1 -fsanitize=address -fsanitize=undefined -fno-omit-frame-pointer \
            -fno-sanitize=null,alignment,object-size,pointer-overflow

sanitize: $(VENV)/.installed
	$(call instrumented,sanitize,$(SANITIZE))
	cd build/sanitize && ASAN_OPTIONS=detect_leaks=0:use_sigaltstack=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) $$($${CXX:-g++} -print-file-name=libubsan.so)" \
		PYTHONPATH=. ../../$(BIN)/python -m pytest -q -s -p no:cacheprovider -m "not timing" $(KERNEL_TESTS) -k cython

# Python is not instrumented, but ThreadSanitizer knows its locks.  It does not know those of the
# OpenMP runtime.
sanitize-threads: $(VENV)/.installed
	$(call instrumented,sanitize-threads,-g1 -O1 -fsanitize=thread)
	cd build/sanitize-threads && TSAN_OPTIONS="halt_on_error=1:die_after_fork=0:suppressions='$(CURDIR)/tests/tsan.supp'" \
		LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libtsan.so)" \
		PYTHONPATH=. ../../$(BIN)/python -m pytest -q -s -p no:cacheprovider tests/test_threads.py -k "cython and not openmp"

# What it finds of inputs that reach new code stays in build/fuzz/corpus, for the next time.
fuzz: $(VENV)/.installed
	$(BIN)/python tests/fuzz.py --seconds $(if $(value SECONDS),$(call quoted,SECONDS),60) $(ARGS)

clean:
	rm -rf $(VENV) $(ADAPTERS) build *.egg-info fastattn/implementations/*.so .mypy_cache .pytest_cache .ruff_cache \
		.asv/env .asv/html .asv/vendor .asv/paired/installed .asv/paired/rounds
	find fastattn benchmarks perf tests -name __pycache__ -prune -exec rm -rf {} +

# Measurements cannot be made again in a minute, so `clean` leaves them.
distclean: clean
	rm -rf .asv .peers .tuner_replay report
