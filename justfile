# The checks, by how long they take. `just` comes with the development extra: .venv/bin/just

bin := justfile_directory() / ".venv" / "bin"

# The folders whose tests are pure: no processes, no servers, hardly any disk.
pure := "tests/collect tests/cost tests/ledger/test_ledger.py tests/metrics/test_intervals.py tests/prompt tests/request tests/schema tests/test_layers.py tests/test_packing.py tests/tokens"

# List the recipes.
default:
    @{{just_executable()}} --list

# Make .venv with everything that development needs.
install:
    python3 -m venv .venv
    {{bin}}/pip install -q -e '.[dev]'

# Lint, format and types: seconds.
check:
    {{bin}}/ruff check .
    {{bin}}/ruff format --check .
    {{bin}}/mypy --strict

# The pure tests: about ten seconds.
quick:
    {{bin}}/pytest -n 0 --hypothesis-profile=quick {{pure}}

# The tests, all of them or those named: `just test tests/cli`.
test *ARGS:
    {{bin}}/pytest {{ARGS}}

# Accept what the commands print now as their snapshots; read the diff before you commit it.
snapshots:
    {{bin}}/pytest -n 0 tests/cli/test_snapshots.py --snapshot-update

# Write the generated pages again.
pages:
    for page in docs/generate_*.py; do {{bin}}/python "$page"; done

# Everything that must hold before a change goes in, in clones of what is committed: `just ci`, or steps: `just ci lint docs`.
ci *STEPS:
    .ci/run {{STEPS}}
