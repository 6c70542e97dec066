#!/bin/bash
# Runs a command under a real systemd, on any machine that gives root the right to make namespaces.
#
#   under-systemd.sh [UNIT_FILE | DROP_IN_FOLDER]... -- COMMAND [ARGUMENT...]
#
# systemd becomes PID 1 of fresh pid, mount, net, uts, ipc and cgroup namespaces over a throw-away copy of this
# root (an overlay whose upper layer is memory), with the units in its /etc/systemd/system and only journald
# started. COMMAND runs in there; then all of it is killed, and COMMAND's status returned. Real, and not
# forgotten, are the working folder and those of BIND ("/a:/b"). Exit 77: this machine cannot do it.
set -euo pipefail

cannot() {
    echo "cannot run systemd: $*" >&2
    exit 77
}

# --- stage 3, as PID 1 of the new namespaces: builds the root and becomes systemd ---------------------------

build_root() {
    local root=$1 folder node pair
    mkdir -p /run/upper /run/work "$root"
    mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay "$root"
    local IFS=:
    for folder in "$PWD" ${BIND:-}; do
        mkdir -p "$root$folder"
        mount --bind "$folder" "$root$folder"
    done
    unset IFS

    mount -t proc -o nosuid,noexec,nodev proc "$root/proc"
    # The host's kernel settings stay as they are.
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro,nosuid,noexec,nodev sysfs "$root/sys"
    mount -t cgroup2 -o nosuid,noexec,nodev cgroup2 "$root/sys/fs/cgroup"

    # Its own /dev, since journald puts a link into it.
    mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm"
    for node in null zero full random urandom tty; do
        cp -a "/dev/$node" "$root/dev/"
    done
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
    mount -t tmpfs tmpfs "$root/dev/shm"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    for pair in 0:stdin 1:stdout 2:stderr; do
        ln -s "/proc/self/fd/${pair%:*}" "$root/dev/${pair#*:}"
    done
    mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
    mkdir -m 1777 "$root/run/lock"
}

install_units() {
    local root=$1 unit
    shift
    local lib=$root/lib/systemd etc=$root/etc/systemd
    : >"$root/etc/fstab"
    rm -rf "$lib"/system/*.wants "$etc"/system/*.{wants,requires} "$lib"/system-generators/*
    mkdir -p "$etc/journald.conf.d" "$lib/system/sysinit.target.wants"
    ln -s ../systemd-journald.service "$lib/system/sysinit.target.wants/"
    printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitIntervalSec=0\n' \
        >"$etc/journald.conf.d/test.conf"
    for unit in "$@"; do
        cp -rL "$unit" "$etc/system/"
    done
}

if [[ ${STAGE-} == init ]]; then
    build_root /run/root
    install_units /run/root "$@"
    cd /run/root
    mkdir -p .old
    pivot_root . .old
    umount -l /.old
    rmdir /.old
    exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        container=test /lib/systemd/systemd --system --unit=multi-user.target --show-status=no \
        --log-target=journal
fi

# --- stage 1: a mount namespace, so that no mount is ever seen outside --------------------------------------

units=()
while (($#)) && [[ $1 != -- ]]; do
    units+=("$(realpath "$1")")
    shift
done
if (($# < 2)); then
    echo "usage: $0 [UNIT]... -- COMMAND..." >&2
    exit 2
fi
shift
if [[ ${STAGE-} != outer ]]; then
    ((EUID == 0)) || cannot "not root"
    [[ -x /lib/systemd/systemd ]] || cannot "it is not installed (apt-get install systemd)"
    unshare --mount true 2>/dev/null || cannot "no right to make namespaces"
    STAGE=outer exec unshare --mount --propagation private -- \
        "$BASH" "$(realpath "$0")" "${units[@]}" -- "$@"
fi

# --- stage 2: a control group, systemd in it, and the command once it is up ---------------------------------

mount -t tmpfs -o mode=755 test /run && mkdir /run/cg && mount -t cgroup2 none /run/cg ||
    cannot "no cgroup2"
# What runs that were killed have left.
for folder in /run/cg/echo-test-*; do
    if [[ -d $folder && ! -d /proc/${folder##*-} ]]; then
        find "$folder" -depth -type d -exec rmdir {} + || :
    fi
done
group=/run/cg/echo-test-$$
mkdir "$group" || cannot "cgroup2 is not writable"

init='' outer=''
clean_up() {
    # A pid namespace dies with its PID 1.
    kill -KILL ${init:-$outer} 2>/dev/null || :
    wait 2>/dev/null || :
    for _ in {1..50}; do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.1
    done
}
trap clean_up EXIT
trap 'exit 143' INT TERM HUP

STAGE=init setpriv --pdeathsig KILL \
    unshare --mount --propagation private --pid --fork --kill-child --uts --ipc --net -- \
    sh -ec 'echo 0 >"$1"/cgroup.procs; shift; exec unshare --cgroup "$@" 2>&3' \
    sh "$group" "$BASH" "$0" "${units[@]}" 3>&2 2>/dev/null &
outer=$!

inside() {
    nsenter -t "$init" -m -u -i -n -p -C -- sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
}
state=''
for ((tries = 0; tries < 1200; tries++)); do # A minute: the machine may be slow.
    kill -0 "$outer" 2>/dev/null || cannot "it did not start"
    read -r init _ <"/proc/$outer/task/$outer/children" || :
    if [[ $init && $(cat "/proc/$init/comm") == systemd ]]; then
        state=$(inside systemctl is-system-running 2>/dev/null || :)
    fi
    case $state in
    running) break ;;
    degraded)
        inside systemctl --failed --no-pager >&2
        break
        ;;
    esac
    sleep 0.05
done
case $state in
running | degraded) ;;
*) cannot "not up after a minute: ${state:-no answer}" ;;
esac

status=0
inside env -u STAGE "$@" <&0 &
wait $! || status=$?
exit "$status"
