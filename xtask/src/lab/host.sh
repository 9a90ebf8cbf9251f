#!/bin/sh
# PID 1 of the emulated host: makes it a small ordinary Linux, runs the script as its user, hands back what it
# printed, its exit status and /out, and ends the machine. Ports of the virtual serial device lead to files of the
# run: console noise cannot mix with what the script prints.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
mount -t tmpfs -o mode=755,nosuid,nodev run /run
mount -t tmpfs -o mode=1777,nosuid,nodev tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
ln -sfn fd/0 /dev/stdin
ln -sfn fd/1 /dev/stdout
ln -sfn fd/2 /dev/stderr
hostname lab
ip link set lo up
echo "0 2147483647" >/proc/sys/net/ipv4/ping_group_range
echo 524288 >/proc/sys/fs/inotify/max_user_watches
[ -e /dev/kvm ] && chown root:kvm /dev/kvm && chmod 660 /dev/kvm
[ -e /dev/net/tun ] && chmod 666 /dev/net/tun
[ -e /dev/fuse ] && chmod 666 /dev/fuse
mkdir -p /out /run/lock /run/user/1000
chmod 1777 /run/lock
chown user:user /out /run/user/1000
chmod 700 /run/user/1000
ulimit -Hn 524288
ulimit -Sn 1024

for port in /sys/class/virtio-ports/*; do
    ln -s "/dev/${port##*/}" "/run/lab-$(cat "$port/name")"
done
. /usr/local/lab/run.env
read -r up rest </proc/uptime

# The script gets pipes, not the ports: a port can be opened only once, so /dev/stdout would not work.
mkfifo -m 666 /run/stdout /run/stderr
cat /run/stdout >/run/lab-stdout &
copy_stdout=$!
cat /run/stderr >/run/lab-stderr &
copy_stderr=$!

# Each processor says that it runs: the emulator can lose one for ever, and what waits for it then waits for ever too.
if [ -n "$LAB_PULSE" ]; then
    mkfifo /run/pulse
    cat /run/pulse >/run/lab-pulse &
    exec 9>/run/pulse
    processor=0
    while [ -e "/sys/devices/system/cpu/cpu$processor" ]; do
        taskset -c "$processor" sh -c "while echo $processor >&9; do sleep $LAB_PULSE; done" &
        processor=$((processor + 1))
    done
    exec 9>&-
fi

cd "/${LAB_HOME#/}" || cd /
if [ "$LAB_USER" = root ]; then
    become="setsid -w env"
else
    become="setsid -w setpriv --reuid=1000 --regid=1000 --init-groups --inh-caps=-all env"
fi
mkdir /sys/fs/cgroup/script
(
    read -r self rest </proc/self/stat
    echo 0 >/sys/fs/cgroup/script/cgroup.procs
    exec $become -i PATH="$PATH" LANG="$LANG" HOME="$LAB_HOME" USER="$LAB_USER" LOGNAME="$LAB_USER" SHELL=/bin/bash \
        XDG_RUNTIME_DIR=/run/user/1000 TERM=dumb AGENT_VM_TIMEOUT_SCALE="$LAB_TIMEOUT_SCALE" \
        sh /usr/local/lab/script.sh </dev/null >/run/stdout 2>/run/stderr
) &
wait $!
status=$?

# What the script left running ends with it; then both pipes are at their end.
echo 1 >/sys/fs/cgroup/script/cgroup.kill
wait $copy_stdout $copy_stderr
[ -z "$LAB_OUT" ] || tar -C /out -cf /run/lab-out .
echo "up $up exit $status" >/run/lab-status
sleep 0.1
echo b >/proc/sysrq-trigger
