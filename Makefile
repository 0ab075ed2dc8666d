# Two commands set everything up on a fresh machine with Python 3.11 or newer:
#   make demo   explains a sentence with the bundled model and writes demo.html
#   make test   checks style, types and imports, and runs the tests
# Six more: make docs builds the documentation as a site; make test-slow runs what make test leaves out; make test-ray
# installs Ray and tests runs on a cluster; make test-oldest tests families, passes and methods on the oldest versions of
# torch and transformers that are supported; make fuzz looks for faults at random for ten minutes;
# make test-extras installs every extra by itself and tries what it is for.
PYTHON ?= python3
TEXT ?= Mr. Bolton was a rich man, and Mrs. Bolton was proud of it. Every day Mr. B

.PHONY: demo docs test test-slow test-ray test-interop test-extras test-oldest lint fuzz bench methods families peer retrieval layers constructed seeds agreement removals pages evaluate evaluate-pictures house figures vision-figures wheel zoo clean

demo: .venv/ready
	.venv/bin/mambascope explain "$(TEXT)" --out demo.html

test: .venv-test/ready lint
	OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal -m "not slow and not ray and not wide"

test-slow: .venv-test/ready
	OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal -m "slow or wide"

# Every extra by itself, in a fresh environment: its features work, and those of the others are refused by name.
EXTRAS = none xarray captum evaluate ray docs interop vision
test-extras:
	for one in $(EXTRAS); do \
	  case $$one in none) extra= ;; ray) extra="[evaluate,ray]" ;; *) extra="[$$one]" ;; esac; \
	  rm -rf .venv-extra && $(PYTHON) -m venv .venv-extra || exit 1; \
	  .venv-extra/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch || exit 1; \
	  .venv-extra/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".$$extra" || exit 1; \
	  OMP_NUM_THREADS=1 .venv-extra/bin/python tests/extras/only.py $$one || exit 1; \
	done

test-ray: .venv-test/ray
	OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest tests/evaluate/test_ray_engine.py

# The rooms that touch transformers. TORCH=2.13.0 takes another release of torch, where the oldest is too large to fetch.
OLDEST_TORCH = $(shell sed -n "s/^torch==//p" constraints-oldest.txt)
OLDEST = tests/families tests/operators tests/trace tests/methods tests/models tests/extensions
test-interop: .venv-test/ready
	.venv-test/bin/python -m pip install --quiet -e ".[dev,interop]" -c constraints.txt
	OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest tests/results/test_interop.py

test-oldest: .venv-oldest/ready
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal -m "not slow and not ray and not wide" $(OLDEST)

# The documentation as a site, in build/docs: every notebook runs, every warning is an error, every link within it is
# followed. No page loads anything from elsewhere.
docs: .venv-test/docs
	OMP_NUM_THREADS=1 .venv-test/bin/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going --jobs auto docs build/docs
	.venv-test/bin/python -m docs.check_site build/docs

lint: .venv-test/ready
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	.venv-test/bin/lint-imports

MINUTES ?= 10
SEED ?= 0
fuzz: .venv-test/ready
	PYTHONPATH=tests .venv-test/bin/python -m fuzz run --minutes $(MINUTES) --seed $(SEED)

bench: .venv/ready .venv-test/ready
	.venv/bin/mambascope bench --size tiny,130m --length 256,1024 --out docs/speed.md
	.venv-test/bin/python -m benchmarks.speed_targets --page docs/speed_targets.md
	OMP_NUM_THREADS=1 .venv-test/bin/python -m benchmarks.method_growth --page docs/method_growth.md --out docs/method_growth.png
	.venv/bin/python -m benchmarks.induction
	.venv-test/bin/python -m benchmarks.exactness

methods: .venv/ready
	.venv/bin/python -m mambascope.cli.methods_table
	.venv/bin/mambascope methods --markdown > docs/methods.md

families: .venv-test/ready
	.venv-test/bin/python -m benchmarks.families --out docs/families.md

layers: .venv-test/ready
	.venv-test/bin/python -m benchmarks.sequence_layers --out docs/sequence_layers.md

constructed: .venv-test/ready
	.venv-test/bin/python -m benchmarks.constructed --limit 10 --page docs/constructed.md

seeds: .venv-test/ready
	OMP_NUM_THREADS=1 .venv-test/bin/python -m benchmarks.trained_seeds --seeds 5 --out docs/trained_seeds.md

retrieval: .venv-test/ready
	.venv-test/bin/python -m benchmarks.hybrid_retrieval --scores 3 --out docs/hybrid_retrieval.md

peer: .venv-peer/ready .venv-test/ready
	.venv-test/bin/python -m benchmarks.peer_maps --peer .venv-peer/bin/python --out docs/peer.md

agreement: .venv-test/ready
	.venv-test/bin/python -m benchmarks.agreement --out docs/agreement.md

removals: .venv-test/ready
	.venv-test/bin/python -m benchmarks.removals --page docs/removals.md --out docs/removals.png

pages: .venv-test/ready
	.venv-test/bin/python -m pip install --quiet playwright
	.venv-test/bin/python -m benchmarks.page_weight --page docs/pages.md

evaluate: .venv-test/ready
	.venv-test/bin/python -m benchmarks.evaluation --page docs/evaluation.md
	.venv-test/bin/python -m benchmarks.activation_rules --page docs/activation_rules.md

evaluate-pictures: .venv-test/ready
	.venv-test/bin/python -m benchmarks.evaluation --of pictures --page docs/evaluation_pictures.md

house: .venv-test/ready
	.venv-test/bin/python -m benchmarks.house_figure --out docs/house.svg

figures: .venv/ready .venv-test/ready house
	.venv/bin/mambascope explain "$(TEXT)" --positions all --out docs/explained.png
	.venv-test/bin/python -m benchmarks.linear_cost --out docs/linear_cost.png
	.venv/bin/mambascope info tiny-hybrid --stats "$(TEXT)" --out docs/memory.png
	.venv-test/bin/python -m benchmarks.count_in_row --out docs/count_in_row.png

PAIR = zoo:vision-digits-vim,zoo:vision-digits-vit
PLACES = zoo:vision-digits-vim-first,zoo:vision-digits-vim,zoo:vision-digits-vim-last,zoo:vision-digits-vit
vision-figures: .venv-test/ready
	.venv-test/bin/python -m benchmarks.vision_figures picture --picture 10 --out docs/digits.png
	.venv-test/bin/python -m benchmarks.vision_figures influence --models $(PLACES) --out docs/vision_influence.png
	for one in matrices similarity; do \
	  .venv-test/bin/python -m benchmarks.vision_figures $$one --models $(PAIR) --picture 10 --out docs/vision_$$one.png || exit 1; \
	done
	.venv-test/bin/mambascope compare docs/digits.png --models $(PAIR) --target 6 --out docs/vision_compare.png

# The wheel as users get it: built, checked, installed into an empty environment, and used away from the clone.
wheel: .venv-test/ready
	rm -rf dist .venv-wheel
	.venv-test/bin/python -m hatchling build -d dist
	.venv-test/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd dist && ../.venv-wheel/bin/mambascope explain "$(TEXT)" --out wheel.html
	cd dist && ../.venv-wheel/bin/python -c "import mambascope as m; m.explain(*m.load('tiny-mamba2'), 'a b', generate=2).show()"

zoo: .venv/ready
	.venv/bin/python -m training.zoo.manifest

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv-test/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

.venv-oldest/ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	sed "s/^torch==.*/torch==$(or $(TORCH),$(OLDEST_TORCH))/" constraints-oldest.txt > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-oldest/constraints.txt torch
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-oldest/constraints.txt --editable ".[dev]"
	touch $@

# TransformerLens with the newest transformers on which its maps work; mambascope is not installed there.
.venv-peer/ready: Makefile
	$(PYTHON) -m venv .venv-peer
	.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check transformer_lens==4.3.0 transformers==5.14.1
	touch $@

.venv-test/ray: .venv-test/ready
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[ray]"
	touch $@

.venv-test/docs: .venv-test/ready
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	touch $@

clean:
	rm -rf .venv .venv-test .venv-oldest .venv-peer .venv-extra build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
