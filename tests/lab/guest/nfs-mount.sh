#!/bin/bash
# In a client: nfs-mount.sh PATH-ON-SERVER PLACE OPTIONS
set -e
modprobe nfs
pidof rpcbind >/dev/null || rpcbind -w
mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/sm /var/lib/nfs/sm.bak "$2"
mountpoint -q /var/lib/nfs/rpc_pipefs || mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
pidof rpc.statd >/dev/null || rpc.statd
mount -t nfs -o "$3" "server:$1" "$2"
