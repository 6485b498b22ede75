#!/bin/bash
# The first process of a guest. Its root is the host's, read-only (hostfs); this puts a tmpfs over
# it, so that daemons find their directories writable, and starts the agent.
# The kernel gives it `machine=FILE`: name, address, python and checkout, as shell variables.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
modules=/usr/lib/uml/modules/$(uname -r)

if [ -z "$in_overlay" ]; then
  mount -t proc proc /proc
  insmod "$modules/kernel/fs/overlayfs/overlay.ko"
  mount -t tmpfs -o size=80% tmpfs /mnt
  mkdir /mnt/upper /mnt/work /mnt/merged
  mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/merged
  mount -n --move /proc /mnt/merged/proc
  cd /mnt/merged || exit
  in_overlay=yes exec chroot . /bin/bash "$0"
fi

# shellcheck source=/dev/null
. "$machine"
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/rpcbind /run/sendsigs.omit.d
rm -rf /var/run
ln -sfn /run /var/run
mkdir -p /lib/modules
ln -sfn "$modules" "/lib/modules/${modules##*/}"
# The overlay may go on showing files as they were; what is being worked on must not.
mount -t hostfs -o "$checkout,ro" checkout "$checkout"

hostname "$name"
: > /etc/resolv.conf
printf '127.0.0.1 localhost %s\n10.77.0.10 server\n10.77.0.11 a\n10.77.0.12 b\n' "$name" > /etc/hosts
ip link set lo up
ip link set vec0 up
ip address add "$address/24" dev vec0
ulimit -n 65536

# PID 1 ends with the machine, and buries what daemons leave behind.
cd "$checkout" || exit
export PYTHONPATH=$checkout PYTHONDONTWRITEBYTECODE=1 HOME=/root PATH=${python%/*}:$PATH
"$python" -m tests.lab.agent 0.0.0.0 &
while :; do wait; sleep 1; done
