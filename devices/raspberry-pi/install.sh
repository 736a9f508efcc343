#!/bin/sh
# Installs a d3bed agent on a Raspberry Pi: the device, which takes the photos. --help tells how.
set -eu
board="a Raspberry Pi"
tier=device

# What the firmware says of power and heat, and what the board is.
board_checks() {
    model=$(cat "$SYSROOT/proc/device-tree/model" 2>/dev/null | tr -d '\0')
    case $model in
    "Raspberry Pi 5"* | "Raspberry Pi 4"* | "Raspberry Pi Compute Module 4"* | "Raspberry Pi Compute Module 5"*)
        ok "$model"
        ;;
    "Raspberry Pi"*) note "$model" "it works if all else is ok; a Raspberry Pi 4 or 5 is three times as fast and more" ;;
    *) note "this is no Raspberry Pi (${model:-no model is told})" "fine for any device with photos; for an edge box use devices/edge-box" ;;
    esac
    throttled=$(cat "$SYSROOT/sys/devices/platform/soc/soc:firmware/get_throttled" 2>/dev/null || echo 0)
    case $throttled in
    0 | 0x0) ;;
    *)
        if [ $((0x${throttled#0x} & 1)) -ne 0 ]; then
            note "its voltage is too low now (get_throttled says $throttled)" "use the power supply that is made for it; it is slowed down until then"
        else
            note "it was, or is, held back (get_throttled says $throttled)" "look at its power supply and cooling"
        fi
        ;;
    esac
}

# shellcheck source=devices/common/install.sh
. "$(dirname "$0")/../common/install.sh"
