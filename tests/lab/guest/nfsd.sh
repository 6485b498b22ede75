#!/bin/bash
# In the server: nfsd.sh start|stop  the kernel's NFS server and its daemons.
# Exports: home (the one that tests use), small (a disk of 24 MiB), squashed (root_squash) and
# readonly; all of ext4.
set -e

mount_disks() {
  modprobe -a nfsd lockd
  mkdir -p /disks/large /disks/small /export
  for disk in ubda:large ubdb:small; do
    device=/dev/${disk%:*} place=/disks/${disk#*:}
    mountpoint -q "$place" && continue
    # a disk that was used before has a filesystem: the server was killed and comes back
    blkid "$device" >/dev/null || mkfs.ext4 -qF -m0 "$device"
    mount -o noatime "$device" "$place"
  done
  # the root that clients of version 4 see; it cannot lie in an overlay
  mountpoint -q /export || mount -t tmpfs -o size=1m,mode=755 tmpfs /export
  for export in home:large squashed:large readonly:large small:small; do
    name=${export%:*} place=/disks/${export#*:}/${export%:*}
    mkdir -p "$place" "/export/$name"
    chmod 1777 "$place"
    mountpoint -q "/export/$name" || mount --bind "$place" "/export/$name"
  done
  common=no_subtree_check,insecure,sync
  cat > /etc/exports <<EXPORTS
/export           *(ro,fsid=0,no_root_squash,$common)
/export/home      *(rw,fsid=1,no_root_squash,$common)
/export/small     *(rw,fsid=2,no_root_squash,$common)
/export/squashed  *(rw,fsid=3,root_squash,$common)
/export/readonly  *(ro,fsid=4,no_root_squash,$common)
EXPORTS
}

start_daemons() {
  pidof rpcbind >/dev/null || rpcbind -w
  mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/nfsdcld /var/lib/nfs/sm /var/lib/nfs/sm.bak
  mountpoint -q /var/lib/nfs/rpc_pipefs || mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
  mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
  pidof rpc.statd >/dev/null || rpc.statd
  pidof nfsdcld >/dev/null || nfsdcld
  # the shortest that the kernel takes: what clients wait after a restart
  echo 10 > /proc/fs/nfsd/nfsv4leasetime
  echo 10 > /proc/fs/nfsd/nfsv4gracetime
  echo 10 > /proc/sys/fs/nfs/nlm_grace_period
  pidof rpc.mountd >/dev/null || rpc.mountd
  exportfs -ra
  # what servers with some memory have by default; it cannot be changed while it serves
  [ "$(cat /proc/fs/nfsd/threads)" != 0 ] || echo 1048576 > /proc/fs/nfsd/max_block_size
  rpc.nfsd -V 3 -V 4 -V 4.1 -V 4.2 -H 0.0.0.0 8
}

case $1 in
  start)
    mount_disks
    start_daemons
    ;;
  stop)
    rpc.nfsd 0
    exportfs -ua
    kill $(pidof rpc.mountd nfsdcld rpc.statd)
    ;;
esac
