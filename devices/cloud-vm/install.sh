#!/bin/sh
# Installs the d3bed server on a cloud VM; install-agent.sh beside it installs the agent. --help tells how.
set -eu
board="a cloud VM (the server, without torch)"
tier=server
# shellcheck source=devices/common/install.sh
. "$(dirname "$0")/../common/install.sh"
