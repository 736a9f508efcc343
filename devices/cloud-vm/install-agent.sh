#!/bin/sh
# Installs a d3bed agent on a cloud VM: the cloud's part of a network. --help tells how.
set -eu
board="a cloud VM (an agent)"
tier=cloud
# shellcheck source=devices/common/install.sh
. "$(dirname "$0")/../common/install.sh"
