# shellcheck shell=sh
# What a machine must have, told before anything is changed. Sourced by install.sh.
#
# Each check says one line: "ok", "note" for what works but could be better, or "NO" with what to do; those are
# counted in `failures`. SYSROOT is where /proc and the like are looked for: tests have machines of their own.

SYSROOT=${SYSROOT:-}
failures=0

ok() { printf '  ok    %s\n' "$1"; }
note() { printf '  note  %s\n        %s\n' "$1" "$2"; }
no() {
    printf '  NO    %s\n        %s\n' "$1" "$2"
    failures=$((failures + 1))
}

check_root() {
    if [ "$(id -u)" -eq 0 ]; then
        ok "run as root"
    elif [ "$dry_run" = yes ]; then
        note "not run as root" "fine for --dry-run; installing needs sudo"
    else
        no "not run as root" "run it with sudo"
    fi
}

# The machine's name for its processor, and for the programs that it can run.
check_architecture() {
    machine=${MACHINE:-$(uname -m)}
    bits=${BITS:-$(getconf LONG_BIT)}
    case $machine in
    x86_64 | aarch64)
        if [ "$bits" = 32 ]; then
            no "a 64-bit processor ($machine) under a 32-bit system" \
                "PyTorch has no 32-bit wheels: install the 64-bit image of the system, then run this again"
        else
            ok "processor: $machine, 64 bit"
        fi
        ;;
    armv7l | armv8l)
        no "a 32-bit system on ARM ($machine)" \
            "PyTorch has no wheels for it: a Raspberry Pi 3, 4, 5 or Zero 2 runs the 64-bit Raspberry Pi OS; install that"
        ;;
    armv6l)
        no "an ARMv6 processor (Raspberry Pi 1 or Zero)" \
            "it is 32 bit and cannot run PyTorch; use a Raspberry Pi 4 or 5 with 2 GB or more"
        ;;
    *) no "processor $machine" "PyTorch has wheels for x86_64 and aarch64 only" ;;
    esac
}

# What PyTorch's kernels ask of the processor.
check_processor() {
    machine=${MACHINE:-$(uname -m)}
    flags=" $(sed -n 's/^\(flags\|Features\)[[:space:]]*: *//p' "$SYSROOT/proc/cpuinfo" 2>/dev/null | head -n 1) "
    case $machine in
    x86_64)
        case $flags in
        *" sse4_2 "*) ;;
        *)
            no "the processor has no SSE4.2" \
                "PyTorch's wheels need it; a virtual machine may hide it: choose the host's processor type (host-passthrough)"
            return
            ;;
        esac
        case $flags in
        *" avx512f "*) ok "processor features: AVX-512" ;;
        *" avx2 "*) ok "processor features: AVX2" ;;
        *) note "the processor has no AVX2" "it works, several times slower; a virtual machine may hide it (host-passthrough)" ;;
        esac
        ;;
    aarch64)
        case $flags in
        *" asimd "*) ;;
        *)
            no "the processor has no Advanced SIMD" "PyTorch's wheels need it: this board cannot run them"
            return
            ;;
        esac
        case $flags in
        *" atomics "*) ok "processor features: ARMv8.2 or later (atomics)" ;;
        *)
            note "the processor is an ARMv8.0 (as in a Raspberry Pi 3 or 4)" \
                "some releases of PyTorch die there of an illegal instruction: it is tried after installing, and you are told"
            ;;
        esac
        ;;
    esac
}

# LEAST and GOOD in MB, and what a machine between them is good for. docs/boards.md has what networks were seen to take.
check_memory() {
    memory_mb=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' "$SYSROOT/proc/meminfo") / 1000))
    if [ "$memory_mb" -lt "$1" ]; then
        no "memory: $memory_mb MB" "at least $1 MB are needed: use a board with more"
    elif [ "$memory_mb" -lt "$2" ]; then
        note "memory: $memory_mb MB" "$3"
    else
        ok "memory: $memory_mb MB"
    fi
}

# NEED in MB, below PREFIX; twice that while wheels are unpacked would not fit a small /tmp, so it is not used.
check_disk() {
    place=$prefix
    while [ ! -d "$place" ]; do place=$(dirname "$place"); done
    free_mb=${FREE_MB:-$(($(df -Pk "$place" | sed -n '2p' | awk '{print $4}') / 1000))}
    if [ "$free_mb" -lt "$1" ]; then
        no "disk: $free_mb MB free in $place" "$1 MB are needed: make room, or choose another place with --prefix"
    else
        ok "disk: $free_mb MB free in $place"
    fi
}

check_python() {
    python=${PYTHON:-python3}
    if ! command -v "$python" >/dev/null 2>&1; then
        no "no $python" "sudo apt-get install python3 python3-venv"
        return
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        no "Python $version" "3.11 or newer is needed: upgrade to Debian 12 (Raspberry Pi OS bookworm), or set PYTHON to a newer one"
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        no "Python $version without venv" "sudo apt-get install python3-venv"
    else
        ok "Python $version with venv"
    fi
}

# Certificates and logs need a clock that is about right.
check_clock() {
    year=${YEAR:-$(date +%Y)}
    if [ "$year" -lt 2025 ]; then
        no "the clock says $year" "set it: sudo timedatectl set-ntp true, and wait a minute (a Pi has no clock of its own)"
        return
    fi
    if command -v timedatectl >/dev/null 2>&1; then
        synchronised=$(timedatectl show --property=NTPSynchronized --value 2>/dev/null || true)
        case $synchronised in
        yes) ok "clock: synchronised" ;;
        no) note "the clock is not synchronised yet" "sudo timedatectl set-ntp true; d3bed measures offsets, but certificates and logs go by it" ;;
        *) ok "clock: $year" ;;
        esac
    else
        ok "clock: $year"
    fi
}

check_systemd() {
    if [ -d "$SYSROOT/run/systemd/system" ]; then
        ok "systemd runs"
    elif [ "$service" = no ]; then
        ok "no service is wanted"
    else
        no "systemd does not run" "give --no-service to install without it, and start d3bed yourself"
    fi
}

check_port() {
    hex=$(printf '%04X' "$1")
    if cat "$SYSROOT/proc/net/tcp" "$SYSROOT/proc/net/tcp6" 2>/dev/null |
        awk -v port=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { found = 1 } END { exit !found }'; then
        if [ -d "$prefix/venv" ]; then
            ok "port $1: in use, by d3bed most likely"
        else
            no "port $1 is in use" "choose another with --port"
        fi
    else
        ok "port $1 is free"
    fi
}

# PHOTOS becomes a path from the root: a service has another working folder.
check_photos() {
    case $photos in
    /*) ;;
    *) photos=$PWD/$photos ;;
    esac
    case $photos in
    *[!A-Za-z0-9_./+@-]*)
        no "--photos $photos" "services want a path of letters, digits and ._+@- only: rename it, or make a link"
        return
        ;;
    esac
    if [ ! -d "$photos" ]; then
        no "--photos $photos: there is no such folder" "make it and put photos into it, or leave --photos out: some are shipped"
    elif [ "$(find "$photos/" -maxdepth 0 -perm -005)" = "" ]; then
        no "--photos $photos: the user $user may not read it" "chmod o+rx $photos, and o+r its photos"
    elif [ -z "$(find "$photos/" -maxdepth 1 -type f -iregex '.*[.]\(jpe?g\|png\|webp\|bmp\)' | head -n 1)" ]; then
        note "no photo in $photos yet" "put JPEG, PNG, WebP or BMP files there before it starts"
    else
        ok "photos: $photos"
    fi
}

check_tls_name() {
    case $tls in
    *[!A-Za-z0-9.:-]*) no "--tls $tls is no address or name" "give what boards will use, as 203.0.113.7 or bed.example" ;;
    *) ok "certificate for $tls, and for this machine's own names" ;;
    esac
}

# A board believes a server with HTTPS for the fingerprint of its authority.
check_authority() {
    case $server in
    https:*) if [ -z "$ca" ]; then no "$server needs --ca" "it is on the line that d3bed agents invite prints, beside the token"; fi ;;
    *) if [ -n "$ca" ]; then no "--ca is for https, and $server is not" "write the address as d3bed agents invite prints it"; fi ;;
    esac
}

# Whether the server answers, and what its clock says. Who it is shows when the board joins, by --ca.
check_server() {
    "$python" - "$1" <<'PYTHON'
import email.utils, ssl, sys, time, urllib.error, urllib.request
address = sys.argv[1].rstrip("/")
whoever = ssl._create_unverified_context()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=whoever))
try:
    with opener.open(address + "/healthz", timeout=5) as answer:
        said = answer.headers.get("Date")
except urllib.error.HTTPError as error:
    said = error.headers.get("Date")
except (OSError, ValueError) as error:
    print(getattr(error, "reason", error))
    sys.exit(1)
off_s = abs(time.time() - email.utils.parsedate_to_datetime(said).timestamp()) if said else 0
print(f"{off_s:.0f}")
PYTHON
}

check_reachable() {
    if answer=$(check_server "$1"); then
        if [ "${answer:-0}" -gt 60 ]; then
            note "the server $1 answers, its clock differs by $answer s" "set both: sudo timedatectl set-ntp true"
        else
            ok "the server $1 answers"
        fi
    else
        no "no answer from $1 ($answer)" "check the address, that the server runs with --host 0.0.0.0, and its firewall"
    fi
}

# How many packages of CUDA a wheel asks for here; false if none.
cuda_of() {
    "$prefix/venv/bin/python" - "$1" <<'PYTHON'
import email.parser, sys, zipfile
from pip._vendor.packaging.requirements import Requirement
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    said = email.parser.HeaderParser().parsestr(wheel.read(name).decode())
needed = map(Requirement, said.get_all("Requires-Dist", []))
cuda = [r for r in needed if r.name.startswith(("cuda-", "nvidia-")) and (not r.marker or r.marker.evaluate({"extra": ""}))]
print(len(cuda))
sys.exit(not cuda)
PYTHON
}
