# shellcheck shell=sh
# Takes away what install.sh made. Sourced by each board's uninstall.sh.

prefix=/opt/d3bed
purge=no
dry_run=no
while [ $# -gt 0 ]; do
    case $1 in
    --purge) purge=yes ;;
    --dry-run) dry_run=yes ;;
    --prefix)
        prefix=${2:?--prefix needs a value}
        shift
        ;;
    *)
        cat <<USAGE
Removes d3bed's services and environment from this machine.

  --dry-run        tell what would be done, change nothing
  --purge          also its settings, identity, profiles, database and user
  --prefix FOLDER  where it is (default $prefix)
USAGE
        case $1 in --help | -h) exit 0 ;; *) exit 2 ;; esac
        ;;
    esac
    shift
done

run() {
    if [ "$dry_run" = yes ]; then printf '  would run: %s\n' "$*"; else "$@"; fi
}

if [ "$(id -u)" -ne 0 ] && [ "$dry_run" = no ]; then
    echo "run it with sudo" >&2
    exit 2
fi
case $prefix in
/ | /usr | /etc | /var | /home | /opt | '')
    echo "--prefix $prefix: that is not d3bed's alone" >&2
    exit 2
    ;;
esac
for unit in d3bed-agent.service d3bed-server.service; do
    if [ -e "/etc/systemd/system/$unit" ]; then
        if [ -d /run/systemd/system ]; then run systemctl disable --now --quiet "$unit"; fi
        run rm -rf "/etc/systemd/system/$unit" "/etc/systemd/system/$unit.d"
        if [ -d /run/systemd/system ]; then run systemctl daemon-reload; fi
    fi
done
if [ "$(readlink /usr/local/bin/d3bed || true)" = "$prefix/venv/bin/d3bed" ]; then run rm -f /usr/local/bin/d3bed; fi
run rm -rf "$prefix"
if [ "$purge" = yes ]; then
    run rm -rf /etc/d3bed /var/lib/d3bed
    if id d3bed >/dev/null 2>&1; then run userdel d3bed; fi
    echo "d3bed is gone"
else
    echo "d3bed is gone; /etc/d3bed and /var/lib/d3bed are kept (--purge removes them)"
fi
