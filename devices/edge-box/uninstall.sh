#!/bin/sh
# Removes d3bed from this machine; --help tells how.
set -eu
# shellcheck source=devices/common/uninstall.sh
. "$(dirname "$0")/../common/uninstall.sh"
