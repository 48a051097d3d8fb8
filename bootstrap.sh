#!/bin/sh
# From a bare machine to `inv TASK`: makes .venv, installs what the task needs, runs it.
#   ./bootstrap.sh demo     the whole tool against a lab on this machine
#   ./bootstrap.sh test     the tests (and any other task, with the development tools)
set -eu
cd "$(dirname "$0")"

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

main() {
    case "${1:-}" in
        demo) extra=demo ;;
        *) extra=dev ;;
    esac
    make_venv
    install_extra "$extra"
    exec .venv/bin/inv "$@"
}

# --- Python and its virtual environment

make_venv() {
    made_in=$(cat .venv/made-in 2>/dev/null || true)
    if [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null && [ "${made_in:-$PWD}" = "$PWD" ]; then
        return
    fi
    # a checkout that was moved, or a Python that is gone, leaves scripts that point nowhere
    [ ! -e .venv ] || [ -n "$made_in" ] || die ".venv does not work, and this script did not make it: move it away"
    python=$(find_python) || die "no Python 3.11 or newer. Debian 12, Ubuntu 24.04: sudo apt-get install -y python3 python3-venv"
    say "making .venv with $("$python" -V)"
    if ! new_venv "$python"; then
        get_venv_package
        new_venv "$python" || die "$python -m venv .venv still fails: $problem"
    fi
    printf '%s\n' "$PWD" >.venv/made-in
}

find_python() {
    for name in python3.11 python3.12 python3.13 python3 python3.14; do
        path=$(command -v "$name") || continue
        if "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$path"
            return
        fi
    done
    return 1
}

new_venv() {
    rm -rf .venv
    problem=$("$1" -m venv .venv 2>&1) || { rm -rf .venv; return 1; }
}

get_venv_package() { # Debian and Ubuntu keep ensurepip, which venv needs, in a package of its own
    command -v apt-get >/dev/null || die "python -m venv failed: $problem"
    if [ "$(id -u)" != 0 ]; then
        die "Python lacks its venv module. Type: sudo apt-get update && sudo apt-get install -y python3-venv"
    fi
    say "installing python3-venv"
    problem=$(apt-get -q update 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get -q install -y \
        --no-install-recommends python3-venv 2>&1 </dev/null) || die "apt-get failed: $problem"
}

# --- packages

install_extra() {
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    for have in "$1" dev; do # dev holds everything demo does
        [ "$(cat ".venv/installed-$have" 2>/dev/null)" != "$wanted" ] || return 0
    done
    say "installing '.[$1]' into .venv: some minutes the first time (details: .venv/install.log)"
    .venv/bin/python -m pip install --disable-pip-version-check --no-input -c constraints.txt -e ".[$1]" \
        </dev/null >.venv/install.log 2>&1 &
    watch_install $! || {
        tail -n 20 .venv/install.log >&2
        die "pip failed; the last lines of .venv/install.log are above"
    }
    printf '%s\n' "$wanted" >".venv/installed-$1"
}

watch_install() { # says now and then what pip is at, returns its exit status
    pip=$1
    trap 'kill "$pip" 2>/dev/null; exit 130' INT TERM
    seconds=0
    while kill -0 "$pip" 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        [ $((seconds % 15)) != 0 ] || say "${seconds} s: $(grep -E '^ *(Collecting|Downloading|Installing)' .venv/install.log | tail -n 1 | cut -c 1-75)"
    done
    trap - INT TERM
    wait "$pip"
}

main "$@"
