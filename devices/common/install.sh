# shellcheck shell=sh
# The installer of all boards. Sourced by their own install.sh, which says what board it is:
#   board     what it is called in words
#   tier      device, edge or cloud; "server" for the control plane
# and may define `board_checks`, called after the others.
#
# What it does, in this order, and what --dry-run tells without doing: checks; a system user; an environment
# below PREFIX from pinned lock files; a first run of PyTorch; joining the server; a service. All of it may be
# run again: what is there already stays, what is newer is put in its place.

umask 022
here=$(cd "$(dirname "$0")" && pwd)
devices=$(dirname "$here")
# shellcheck source=devices/common/checks.sh
. "$devices/common/checks.sh"

prefix=/opt/d3bed
settings=/etc/d3bed
state=/var/lib/d3bed
units=/etc/systemd/system
user=d3bed
source=$(dirname "$devices")
server=${D3BED_SERVER:-}
token=${D3BED_TOKEN:-}
ca=
tls=
engine=
name=
port=4750
photos=
torch_index=
dry_run=no
service=yes
start=yes
[ "$tier" = server ] && port=8333

usage() {
    cat <<USAGE
Installs d3bed on $board. Run it as root; run it again to upgrade.

  --dry-run          check this machine and tell what would be done, change nothing
USAGE
    if [ "$tier" != server ]; then
        cat <<USAGE
  --server URL       the server that this board joins, as http://192.168.0.2:8333
  --token TOKEN      a join token (on the server: d3bed agents invite); better in D3BED_TOKEN
  --ca FINGERPRINT   of the server's authority, where its address is https: it is beside the join token
  --name NAME        what this board is called; default: its host name
  --photos FOLDER    photos that a device looks at; default: some that are shipped
  --engine ENGINE    what computes: torch (bit for bit), onnx or cuda (to 1e-5), or auto, the fastest here; onnx and
                     auto also install ONNX Runtime
  --torch-index URL  a package index that has PyTorch without CUDA, where there is no NVIDIA GPU
USAGE
    else
        cat <<USAGE
  --tls NAME         HTTPS, and secured links between boards; NAME is the address or name that boards reach it by
USAGE
    fi
    cat <<USAGE
  --port PORT        where it listens (default $port)
  --from PATH        a checkout of d3bed, or a wheel; default: the checkout that this script is in
  --prefix FOLDER    where it goes (default $prefix)
  --no-start         install and enable the service, but do not start it
  --no-service       install no service: for containers, or your own service manager
USAGE
}

while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry_run=yes ;;
    --no-start) start=no ;;
    --no-service) service=no ;;
    --help | -h)
        usage
        exit 0
        ;;
    --server | --token | --ca | --tls | --name | --port | --photos | --engine | --torch-index | --from | --prefix)
        if [ $# -lt 2 ]; then
            echo "$1 needs a value" >&2
            exit 2
        fi
        case $1 in
        --server) server=$2 ;;
        --token) token=$2 ;;
        --ca) ca=$2 ;;
        --tls) tls=$2 ;;
        --name) name=$2 ;;
        --port) port=$2 ;;
        --photos) photos=$2 ;;
        --engine) engine=$2 ;;
        --torch-index) torch_index=$2 ;;
        --from) source=$2 ;;
        --prefix) prefix=$2 ;;
        esac
        shift
        ;;
    *)
        echo "no such option: $1" >&2
        usage >&2
        exit 2
        ;;
    esac
    shift
done
case $port in
'' | *[!0-9]*)
    echo "--port $port is not a number" >&2
    exit 2
    ;;
esac

case $engine in
'' | torch | onnx | cuda | auto) ;;
*)
    echo "--engine $engine is none of torch, onnx, cuda, auto" >&2
    exit 2
    ;;
esac

started_s=$(date +%s)
step() { printf '\n%4d s  %s\n' "$(($(date +%s) - started_s))" "$1"; }

# Do a command, or tell it.
run() {
    if [ "$dry_run" = yes ]; then
        printf '  would run: %s\n' "$*"
    else
        "$@"
    fi
}

# Write stdin to a file, or tell it; a file that says so already stays untouched.
write() {
    if [ "$dry_run" = yes ]; then
        printf '  would write: %s\n' "$2"
        cat >/dev/null
        return
    fi
    cat >"$2.new"
    chmod "$1" "$2.new"
    if cmp -s "$2.new" "$2"; then
        rm "$2.new"
    else
        mv "$2.new" "$2"
        printf '  wrote %s\n' "$2"
    fi
}

as_user() { run runuser -u "$user" -- "$@"; }

# ── checks ────────────────────────────────────────────────────────────────────────────────────────

step "looking at this machine, as $board"
check_root
check_architecture
check_python
if [ "$tier" = server ]; then
    lock=server
    check_memory 400 900 "enough for tens of agents; hundreds want 900 MB"
    check_disk 600
else
    lock=agent
    check_processor
    check_memory 900 2500 \
        "ResNet-18 takes 0.6 GB, AlexNet 0.8, Darknet-53 1.1, VGG-16 1.7 where all of it runs: a board with 2500 MB runs each"
    check_disk 2500
fi
check_clock
check_systemd
check_port "$port"
if command -v board_checks >/dev/null; then board_checks; fi
if [ -n "$photos" ]; then check_photos; fi
if [ -n "$tls" ]; then check_tls_name; fi
if [ -n "$server" ] && [ -n "$token" ]; then check_authority; fi
if [ -n "$server" ] && [ "$failures" -eq 0 ]; then check_reachable "$server"; fi
if [ "$failures" -gt 0 ]; then
    printf '\nNothing was changed: %s thing(s) above must be mended first.\n' "$failures"
    [ "$dry_run" = yes ] && exit 1
    exit 2
fi

# ── user, folders, files ──────────────────────────────────────────────────────────────────────────

step "user and folders"
if id "$user" >/dev/null 2>&1; then
    echo "  the user $user is there"
else
    run useradd --system --home-dir "$state" --shell /usr/sbin/nologin "$user"
fi
run install -d -m 755 "$prefix" "$settings"
run install -d -m 700 -o "$user" -g "$user" "$state"

# Each version has a folder of its own: what runs keeps its own files until it is started again, and the version
# before this one stays until the next.
step "d3bed itself, from $source"
changed=no
if [ -d "$source" ]; then
    locks=$source/requirements
    parts="d3bed web configs devices requirements pyproject.toml README.md"
    # shellcheck disable=SC2086 # words
    sum=$(cd "$source" && find $parts -name __pycache__ -prune -o -type f -print | LC_ALL=C sort |
        tr '\n' '\0' | xargs -0 cksum | cksum | cut -d ' ' -f 1)
    place=$prefix/source-$sum
    before=$(readlink "$prefix/source" || true)
    if [ "$before" = "$place" ]; then
        echo "  $place is the same already"
    else
        for other in "$prefix"/source-*; do
            if [ -d "$other" ] && [ "$other" != "$before" ]; then run rm -rf "$other"; fi
        done
        run mkdir "$place"
        for part in $parts; do
            run cp -R "$source/$part" "$place/$part"
        done
        changed=yes
    fi
else
    locks=$devices/../requirements
    changed=yes
fi

# ── environment ───────────────────────────────────────────────────────────────────────────────────

python=${PYTHON:-python3}
pip() {
    what=$1
    shift
    run env TMPDIR="$prefix/tmp" "$prefix/venv/bin/python" -m pip "$what" --quiet --disable-pip-version-check --no-cache-dir "$@"
}
wanted=$(cat "$locks/$lock.lock" | cksum | cut -d ' ' -f 1)-$("$python" -c 'import sys; print(sys.version.split()[0])')
mark=$prefix/venv/.d3bed-$lock
if [ "$(cat "$mark" 2>/dev/null)" = "$wanted" ]; then
    step "packages are those of requirements/$lock.lock already"
else
    step "packages of requirements/$lock.lock (some minutes)"
    run install -d -m 755 "$prefix/tmp"
    run "$python" -m venv "$prefix/venv"
    if [ "$lock" = agent ]; then
        echo "  PyTorch first: the largest part"
        sed -n '/^torch==/p' "$locks/agent.lock" | write 644 "$prefix/tmp/torch.lock"
        pip download --no-deps --dest "$prefix/tmp/torch" ${torch_index:+--index-url "$torch_index"} -r "$prefix/tmp/torch.lock"
        gpu=no
        if [ -e "$SYSROOT/proc/driver/nvidia/version" ]; then gpu=yes; fi
        if [ "$dry_run" = no ] && [ "$gpu" = no ] && cuda=$(cuda_of "$prefix"/tmp/torch/torch-*.whl); then
            rm -rf "$prefix/tmp"
            no "the PyTorch of this package index wants CUDA ($cuda packages, gigabytes), and there is no NVIDIA GPU" \
                "give --torch-index URL, an index with wheels for CPUs: pytorch.org names one (Start Locally, Compute Platform: CPU)"
            exit 1
        fi
        if [ "$gpu" = yes ]; then pip install "$prefix"/tmp/torch/torch-*.whl; else pip install --no-deps "$prefix"/tmp/torch/torch-*.whl; fi
    fi
    pip install --no-deps -r "$locks/$lock.lock"
    run rm -rf "$prefix/tmp"
fi
case $engine in
onnx | auto)
    if ! "$prefix/venv/bin/python" -I -c 'import onnx, onnxruntime' 2>/dev/null; then
        step "ONNX Runtime, for --engine $engine"
        pip install --no-deps -r "$locks/onnx.lock"
    fi
    ;;
esac
if [ "$changed" = yes ] || ! "$prefix/venv/bin/python" -I -c 'import d3bed' 2>/dev/null; then
    step "d3bed into the environment"
    run install -d -m 755 "$prefix/tmp"
    if [ -d "$source" ]; then
        pip install --no-deps --editable "$place"
        run "$prefix/venv/bin/python" -m compileall -q "$place/d3bed" # its user may not write there
        run ln -sfn "$place" "$prefix/source"
    else
        pip install --no-deps --force-reinstall "$source"
    fi
    run rm -rf "$prefix/tmp"
fi
command_link=/usr/local/bin/d3bed
if [ "$(readlink "$command_link" || true)" != "$prefix/venv/bin/d3bed" ]; then
    step "the command d3bed"
    if [ -e "$command_link" ]; then
        note "$command_link is there already" "this one is $prefix/venv/bin/d3bed"
    else
        run ln -s "$prefix/venv/bin/d3bed" "$command_link"
    fi
fi
if [ "$lock" = server ] && [ -d "$source" ]; then
    if [ ! -e "$place/web/dist/made.json" ]; then
        step "the page's charts, by npm"
        run install -d -m 755 "$prefix/tmp"
        if ! command -v npm >/dev/null 2>&1; then
            node=$(sed -n "s/^_NODE = '\([^;]*\);.*/\1/p" "$source/web/build_hook.py")
            pip install --target "$prefix/tmp/node" "$node" || true
        fi
        run env npm_config_fetch_retries=1 PYTHONPATH="$prefix/tmp/node" TMPDIR="$prefix/tmp" "$prefix/venv/bin/python" "$place/web/vendor.py" ||
            note "they could not be fetched" "the page draws plain ones until this is run again"
        run rm -rf "$prefix/tmp"
    fi
fi
if [ "$dry_run" = no ]; then echo "$wanted" >"$mark"; fi

# ── does it run here? ─────────────────────────────────────────────────────────────────────────────

if [ "$lock" = agent ]; then
    step "a first convolution with PyTorch"
    code=0
    run "$prefix/venv/bin/python" -c '
import torch
with torch.inference_mode():
    torch.nn.Conv2d(3, 8, 3)(torch.ones(1, 3, 32, 32))
print("  torch", torch.__version__, "on", torch.backends.cpu.get_cpu_capability())' || code=$?
    if [ "$code" -ge 128 ]; then
        no "PyTorch dies of signal $((code - 128)) on this processor" \
            "this wheel was built for newer ones: put an older torch into requirements/agent.lock, on all boards alike, and run this again"
        exit 1
    elif [ "$code" -ne 0 ]; then
        no "PyTorch does not start" "its own words are above; most often memory or a broken download: run this again"
        exit 1
    fi
fi

# ── joining ───────────────────────────────────────────────────────────────────────────────────────

identity=$state/identity.json
if [ "$lock" = agent ]; then
    step "joining"
    if [ -n "$server" ] && [ -n "$token" ]; then
        D3BED_TOKEN=$token
        export D3BED_TOKEN
        as_user "$prefix/venv/bin/d3bed" join "$server" ${ca:+--ca "$ca"} ${name:+--name "$name"} --tier "$tier" --identity "$identity"
        unset D3BED_TOKEN
    elif [ -e "$identity" ]; then
        echo "  this board has joined already"
    else
        echo "  not joined yet: give --server and a token, or later, as root:"
        echo "  runuser -u $user -- $prefix/venv/bin/d3bed join URL --tier $tier --identity $identity --token TOKEN"
    fi
fi

# ── service ───────────────────────────────────────────────────────────────────────────────────────

options="${photos:+--photos $photos }${tls:+--tls --tls-name $tls }${engine:+--engine $engine}"
if [ "$lock" = agent ]; then
    unit=d3bed-agent.service
    settings_file=agent.env
    command="$prefix/venv/bin/d3bed agent --identity $identity --host 0.0.0.0 --port $port --cache-dir $state/cache"
else
    unit=d3bed-server.service
    settings_file=server.env
    command="$prefix/venv/bin/d3bed server --config $settings/testbed.toml --host 0.0.0.0 --port $port --data-dir $state/server"
fi
step "settings"
if [ -e "$settings/$settings_file" ]; then
    echo "  $settings/$settings_file stays as it is"
    for option in "${photos:+--photos $photos}" "${tls:+--tls --tls-name $tls}" "${engine:+--engine $engine}"; do
        if [ -n "$option" ] && ! grep -qF -- "$option" "$settings/$settings_file"; then
            note "it does not say $option" "add that to its D3BED_OPTIONS, and restart the service"
        fi
    done
else
    write 640 "$settings/$settings_file" <<SETTINGS
# Options for $unit, added to its command line; restart it after a change.
D3BED_OPTIONS=$options
SETTINGS
fi
if [ "$lock" = server ] && [ ! -e "$settings/testbed.toml" ]; then
    write 644 "$settings/testbed.toml" <"$here/testbed.toml"
fi
if [ "$service" = no ]; then
    step "done; no service was wanted. To start it:"
    echo "  runuser -u $user -- $command $options"
    exit 0
fi
step "service $unit"
sed "s|@COMMAND@|$command|; s|@SETTINGS@|$settings/$settings_file|; s|@PREFIX@|$prefix|" \
    "$devices/common/$unit" | write 644 "$units/$unit"
run install -d -m 755 "$units/$unit.d"
if [ -n "$photos" ]; then
    # Homes are hidden from it, and /tmp is its own: of those it sees this folder alone.
    printf '[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths=%s\n' "$photos" | write 644 "$units/$unit.d/photos.conf"
fi
if [ -e "$here/limits.conf" ]; then write 644 "$units/$unit.d/limits.conf" <"$here/limits.conf"; fi
case $engine in
cuda | auto)
    if [ -e "$SYSROOT/proc/driver/nvidia/version" ]; then write 644 "$units/$unit.d/gpu.conf" <"$devices/common/gpu.conf"; fi
    ;;
esac
systemd_version=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
if [ "${systemd_version:-0}" -ge 254 ]; then
    write 644 "$units/$unit.d/back-off.conf" <"$devices/common/back-off.conf"
fi
run systemctl daemon-reload
run systemctl enable --quiet "$unit"
if [ "$start" = no ]; then
    step "done; start it with: systemctl start $unit"
elif [ "$lock" = agent ] && [ ! -e "$identity" ] && [ "$dry_run" = no ]; then
    step "done; it starts once this board has joined: systemctl start $unit"
else
    run systemctl restart "$unit"
    for other in d3bed-agent.service d3bed-server.service; do
        if [ "$changed" = yes ] && [ "$other" != "$unit" ] && [ -e "$units/$other" ]; then
            run systemctl try-restart "$other" # it shares these files
        fi
    done
    step "done; watch it with: journalctl -fu $unit"
    if [ "$tier" = server ]; then
        echo "  its page is http${tls:+s}://${tls:-THIS-MACHINE}:$port; for changes it wants the token in $state/server/token,"
        echo "  and so does d3bed agents invite NAME, which prints what to run on a board"
    fi
fi
