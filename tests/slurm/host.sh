#!/bin/bash
# The first process of a host of the cluster, in network, mount, process, IPC, UTS and cgroup
# namespaces of its own. Its root is the machine's under an overlay: what is written there is
# the host's disk, and stays when its power is cut. /shared and /home are all hosts' own.
#
#     host.sh NAME ROLE ADDRESS CELL PYTHON CHECKOUT VISIBLE...
#
# ROLE: ctl, login or compute. CELL: the directory of the lab's namespaces. VISIBLE: directories
# that the cluster's users need, although on this machine they may lie in root's home.
set -e
name=$1 role=$2 address=$3 cell=$4 python=$5 checkout=$6
shift 6
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
disk=$cell/volatile/hosts/$name
root=$disk/root

make_root() {
  mount --make-rprivate /
  mkdir -p "$disk/upper" "$disk/work" "$root"
  mount -t overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" overlay "$root"
  mount --rbind /dev "$root/dev"
  # sshd of a user can hand out only terminals of the group tty, as real hosts have them
  mount -t devpts -o newinstance,gid=tty,mode=620,ptmxmode=666 devpts "$root/dev/pts"
  mount --bind "$root/dev/pts/ptmx" "$root/dev/ptmx"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  # slurmd wants one, even if it does not use any
  mount -t tmpfs -o size=1m,mode=755 tmpfs "$root/sys/fs/cgroup"
  mkdir "$root/sys/fs/cgroup/freezer"
  [ ! -d "$cell/volatile/freezer" ] || mount -t cgroup -o freezer cgroup "$root/sys/fs/cgroup/freezer"
  for place in tmp run dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$root/$place"; done
  chmod 755 "$root/run"
}

# Each at the path that it has here. The ways there are opened before anything is mounted:
# in the overlay, never on the machine.
show() {
  local path way
  for path in "$@"; do
    mkdir -p "$root$path"
    way=$path
    while [ -n "$way" ]; do way=${way%/*}; chmod o+x "$root$way/"; done
  done
  for path in "$@"; do mount --bind "$path" "$root$path"; done
}

share() {
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
}

make_users() {
  local number
  for number in 1 2; do
    grep -q "^user$number:" /etc/passwd && continue
    echo "user$number:x:200$number:200$number::/home/user$number:/bin/bash" >> /etc/passwd
    echo "user$number:x:200$number:" >> /etc/group
    echo "user$number:*:19000:0:99999:7:::" >> /etc/shadow
  done
}

start_munge() {
  install -d -o munge -g munge -m 755 /run/munge
  install -d -o munge -g munge -m 700 /etc/munge /var/lib/munge /var/log/munge
  install -o munge -g munge -m 400 /etc/slurm/munge.key /etc/munge/munge.key
  setpriv --reuid munge --regid munge --clear-groups munged
}

make_root
show "$cell/sockets" "$@"
share "$cell/etc" /etc/slurm
share "$cell/muxfs" /opt/muxfs
share "$cell/volatile/shared" /shared
share "$cell/volatile/shared/home" /home
cd "$root"
pivot_root . .
umount -l .
cd /

hostname "$name"
cp /etc/slurm/hosts /etc/hosts
make_users
ln -sfn /opt/muxfs/bin/muxfs /usr/local/bin/muxfs
mkdir -p /run/lock /run/sshd
ulimit -n "$(ulimit -Hn)"

ip link set lo up
until [ -e /sys/class/net/eth0 ]; do sleep 0.02; done
ip address add "$address/24" dev eth0
ip link set eth0 up
[ "$role" = ctl ] || nft -f "/etc/slurm/$role.nft"

install -d -o slurm -g slurm -m 755 /var/lib/slurm /var/log/slurm
install -d -o slurm -g slurm -m 755 /var/lib/slurm/slurmctld /var/lib/slurm/slurmd
start_munge
case $role in
  ctl) slurmctld ;;
  compute) slurmd -N "$name" ;;
esac

# It lives as long as this host, which lives as long as the cell.
rm -f "$cell/sockets/$name"
cd "$checkout"
PYTHONPATH=$checkout PYTHONDONTWRITEBYTECODE=1 HOME=/root \
  "$python" -m tests.lab.agent "$cell/sockets/$name" < <(echo stay) &

# PID 1 ends with the host, and buries what daemons leave behind.
set +e
while :; do wait; sleep 1; done
