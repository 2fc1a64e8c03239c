# shellcheck shell=bash
# Source this to use the environment that scripts/setup.sh made: . scripts/env.sh
_root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)
_venv=${VENV:-$_root/.venv}
# shellcheck disable=SC1091
. "$_venv/bin/activate"
export AMENT_PREFIX_PATH=$_venv${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}
export LD_LIBRARY_PATH=$_venv/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PYTHONPATH=$_root${PYTHONPATH:+:$PYTHONPATH}
export PATH=$_root/scripts:$PATH
# Camera images do not fit the default shared-memory segment of Fast DDS.
export FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$_root/config/fastdds.xml}
unset _root _venv
