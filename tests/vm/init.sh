#!/bin/busybox sh
# shellcheck shell=dash
# First process of the emulated machine. It mounts the files of the host machine read-only, with a
# layer in memory for changes, and then executes the job.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
  insmod "$module"
done
mount -t virtiofs -o ro files /files
mount -t tmpfs tmpfs /changes
mkdir /changes/upper /changes/work
mount -t overlay \
  -o lowerdir=/files,upperdir=/changes/upper,workdir=/changes/work,xino=off overlay /new

mount --move /proc /new/proc
mount --move /sys /new/sys
mount --move /dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts devpts /new/dev/pts
mount -t tmpfs tmpfs /new/dev/shm
mount -t tmpfs tmpfs /new/run # hides the run directories of the host machine
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup

mkdir -p /new/lib/modules
ln -sfn "$(cat /modules-directory)" "/new/lib/modules/$(uname -r)"
hostname vm
ip link set lo up
cp /job /new/run/job
exec switch_root /new /bin/sh /run/job
