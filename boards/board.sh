#!/bin/sh
# bitfront on a board without Docker. Needs Python 3.11 or newer.
#
#   on a computer with a network, in the repository:
#     boards/board.sh pack aarch64 wheels     collect bitfront and all it needs for a 64-bit Arm board
#   on the board, with that folder, this script and the artifacts copied over:
#     sh board.sh install wheels              make an environment in ./bitfront-env, from the folder alone
#     sh board.sh benchmark front results     time every artifact below front/, write results/HOST.json
#     sh board.sh evaluate front DATA results score every artifact on DATA, write results/HOST-NAME.json
#
# ENVIRONMENT: PYTHON (python3), BITFRONT (./bitfront-env/bin/bitfront), EXTRAS (litert).
set -eu

PYTHON=${PYTHON:-python3}
ENVIRONMENT=bitfront-env
BITFRONT=${BITFRONT:-./$ENVIRONMENT/bin/bitfront}
EXTRAS=${EXTRAS-litert}

fail() {
    echo "error: $1" >&2
    exit 2
}

usage() {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0" | sed '$d'
}

pack() {
    architecture=${1:-aarch64} folder=${2:-wheels}
    [ -f pyproject.toml ] || fail "pack works in the repository: no pyproject.toml here"
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    version=${BOARD_PYTHON:-$version}
    mkdir -p "$folder"
    "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$folder" .
    wheel=$(find "$folder" -name 'bitfront-*.whl' | sort | tail -n 1)
    set --
    for tag in manylinux2014 manylinux_2_17 manylinux_2_24 manylinux_2_26 manylinux_2_27 manylinux_2_28 manylinux_2_34; do
        set -- "$@" --platform "${tag}_$architecture"
    done
    "$PYTHON" -m pip download --quiet --dest "$folder" -c constraints.txt --only-binary=:all: \
        --python-version "$version" "$@" "$wheel${EXTRAS:+[$EXTRAS]}"
    echo "packed for Python $version on $architecture: $folder"
}

install() {
    folder=${1:-wheels}
    [ -d "$folder" ] || fail "no folder '$folder': make it with 'board.sh pack' on a computer with a network"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$PYTHON is older than 3.11"
    "$PYTHON" -m venv "$ENVIRONMENT"
    "./$ENVIRONMENT/bin/python" -m pip install --quiet --no-index --find-links "$folder" "bitfront${EXTRAS:+[$EXTRAS]}"
    "$BITFRONT" doctor
}

# Prints every artifact below a folder, one a line.
artifacts() {
    [ -d "$1" ] || fail "no folder '$1' with artifacts"
    found=$(find "$1" -type f \( -name '*.onnx' -o -name '*.tflite' \) | sort)
    [ -n "$found" ] || fail "no .onnx or .tflite file below '$1'"
    echo "$found"
}

benchmark() {
    front=${1:-front} results=${2:-results}
    list=$(artifacts "$front")
    mkdir -p "$results"
    for suffix in onnx tflite; do
        set --
        while IFS= read -r path; do
            case $path in *."$suffix") set -- "$@" "$path" ;; esac
        done <<LIST
$list
LIST
        [ $# -gt 0 ] || continue
        "$BITFRONT" benchmark --json "$@" > "$results/$(uname -n)-$suffix.json.part"
        mv "$results/$(uname -n)-$suffix.json.part" "$results/$(uname -n)-$suffix.json"
        echo "$results/$(uname -n)-$suffix.json"
    done
}

evaluate() {
    [ $# -ge 2 ] || fail "evaluate needs a folder of artifacts and DATA"
    front=$1 data=$2 results=${3:-results}
    list=$(artifacts "$front")
    mkdir -p "$results"
    while IFS= read -r path; do
        name=$(basename "$(dirname "$path")")-$(basename "$path")
        "$BITFRONT" evaluate --json "$path" "$data" > "$results/$(uname -n)-$name.json.part"
        mv "$results/$(uname -n)-$name.json.part" "$results/$(uname -n)-$name.json"
        echo "$results/$(uname -n)-$name.json"
    done <<LIST
$list
LIST
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
pack | install | benchmark | evaluate) "$command" "$@" ;;
help | -h | --help) usage ;;
*) fail "unknown command '$command'; 'board.sh help' lists them" ;;
esac
