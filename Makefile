# Two commands: `make demo` shows what expedite does, `make test` checks that it does.
PYTHON ?= python3
BIN := .venv/bin
# Tensors of a megabyte go back to the system when they are freed, or a worker only grows; tracing
# takes a fifth less time where Python keeps lines and no columns for the stack of every operation.
PYTEST := MALLOC_MMAP_THRESHOLD_=1048576 PYTHONNODEBUGRANGES=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test check fuzz lint test-browser site notebooks

demo: .venv/installed
	$(BIN)/expedite demo

test: lint
	$(PYTEST)

# The inner loop: all but what compiles, exports, starts processes or trains.
check: lint
	$(PYTEST) -m "not slow"

# Thousands of random plans on every host, in place of the few of `make test`.
fuzz: .venv/installed
	EXPEDITE_RANDOM_PLANS=5000 $(BIN)/python -m pytest tests/test_random_plans.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/actionlint -shellcheck=
	$(BIN)/mypy --strict

# Drives the report in headless Chromium, which `make test` leaves out where it is missing:
#     apt-get install -y chromium chromium-driver
test-browser: .venv/installed
	command -v chromium && command -v chromedriver
	$(BIN)/python -m pip install -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -rs tests/report/test_browser.py

# The pages of docs/, with a link that leads nowhere or a name that is gone an error; NO_MKDOCS_2_WARNING
# keeps away what the theme says of its own future.
site: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Runs the notebooks with the shipped models and keeps what they showed.
notebooks: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	$(BIN)/python examples/notebooks/execute.py

# Again whenever a dependency changes.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[all]'
	touch $@
