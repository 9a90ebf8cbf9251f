#!/bin/busybox sh
# First program of the emulated host: loads the modules it was packed with, in order, mounts the root disk and, on
# /usr/local, this run's disk, and hands over to the run's host.sh.
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done </modules/order
/bin/busybox mount -t ext4 -o noatime /dev/vda /root
/bin/busybox mount -t ext4 -o noatime /dev/vdb /root/usr/local
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /usr/local/lab/host.sh
