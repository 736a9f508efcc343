#!/bin/sh
# Installs a d3bed agent on an edge box: any PC or ARM board near the device. --help tells how.
set -eu
board="an edge box"
tier=edge
# shellcheck source=devices/common/install.sh
. "$(dirname "$0")/../common/install.sh"
