# make demo            the whole service on this machine; ONESHOT=1 ends by itself
# make test            everything that guards the code: style, types, rooms, tests with coverage
# make prove           all long proofs, about two and a half hours: the four below, one after the other
# make prove-cluster   under load on the cluster that KUBECONFIG and INGRESS_URL name, releases included
# make prove-load      100 clients for 5 minutes, and how it grows, on this machine; figures into docs/load.md
# make prove-soak      half an hour with memory and file descriptors flat; figures into docs/load.md
# make prove-chaos     every fault on this machine; figures into docs/chaos.md
# make kind            a cluster on a machine with Docker: kind and the projects' own installers
# make sbom            a software bill of materials for each image, in build/
# make audit           known holes in the dependencies (asks the network)
# make fuzz            coverage-guided fuzzing of every parser that a client can reach; FUZZ_SECONDS for each
# make pages           write docs/settings.md and docs/values.md anew
# make lock            compile the direct dependencies of pyproject.toml into requirements/*.txt
PYTHON ?= python3
BIN := .venv/bin
export OPENBLAS_NUM_THREADS := 1
# ONNX Runtime's Linux wheels report to their maker unless told not to.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo test prove prove-cluster prove-load prove-soak prove-chaos kind check sbom audit fuzz pages lock clean

demo: .venv/stamp
	$(BIN)/python -m reference demo $(if $(ONESHOT),--oneshot)

test: check
	$(BIN)/python -m pytest -n 2 --dist loadscope --ignore tests/e2e --cov --cov-report=term $(PYTEST_ARGS)
	$(BIN)/python -m pytest tests/e2e -m "not proof" $(E2E_ARGS)

prove: prove-load prove-soak prove-chaos prove-cluster

prove-cluster: .venv/stamp
	$(BIN)/python -m pytest tests/e2e -m proof $(E2E_ARGS)

prove-load: .venv/stamp
	$(BIN)/python tests/load/prove.py load --out build/proofs/load --docs docs/load.md

prove-soak: .venv/stamp
	$(BIN)/python tests/load/prove.py soak --seconds 1800 --out build/proofs/soak --docs docs/load.md

prove-chaos: .venv/stamp
	$(BIN)/python tests/load/chaos.py --out build/proofs/chaos --docs docs/chaos.md

kind:
	tests/e2e/kind/up.sh

sbom: .venv/stamp
	mkdir -p build
	set -e; for one in predictor transformer rollout; do \
	    $(BIN)/cyclonedx-py requirements requirements/$$one.txt --pyproject pyproject.toml --short-PURLs \
	        --output-reproducible --of JSON --validate -o build/sbom-$$one.json; \
	done

audit: .venv/stamp
	$(BIN)/pip-audit --strict --disable-pip --require-hashes \
	    $(foreach one,predictor transformer rollout dev,-r requirements/$(one).txt)

fuzz: .venv/stamp
	$(BIN)/uv pip install --quiet --target build/atheris atheris==3.0.0
	PYTHONPATH=build/atheris $(BIN)/python tests/fuzz/run.py --seconds $(or $(FUZZ_SECONDS),60) $(FUZZ_TARGETS)

pages: .venv/stamp
	$(BIN)/python tests/docs/reference_pages.py

check: .venv/stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.venv/stamp: requirements/uv.txt requirements/dev.txt pyproject.toml
	@echo "making .venv from requirements/dev.txt (about a minute the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements/uv.txt requirements/dev.txt
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	@touch $@

# Universal: one file for every Python from 3.11 on and every platform.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
lock:
	echo uv | $(COMPILE) - -o requirements/uv.txt
	$(COMPILE) pyproject.toml --extra predictor --extra tracing -o requirements/predictor.txt
	$(COMPILE) pyproject.toml --extra transformer --extra tracing -o requirements/transformer.txt
	$(COMPILE) pyproject.toml --extra rollout -o requirements/rollout.txt
	$(COMPILE) pyproject.toml --extra predictor --extra transformer --extra registry --extra reference --extra rollout --extra tracing --extra dev -o requirements/dev.txt

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
