#!/usr/bin/env bash
# A Slurm cluster of one node on this machine, for tests: tests/slurm/up.sh FOLDER [PORT]
# As root. Then: export SLURM_CONF=FOLDER/slurm.conf. tests/slurm/down.sh FOLDER ends it.
# PORT and the one after it must be free (default: 26817).
set -euo pipefail

mkdir -p "$1"
folder="$(readlink -f "$1")" port="${2:-26817}" host="$(hostname -s)"
mkdir -p "$folder"/{state,spool,log,run,devices}
export SLURM_CONF="$folder/slurm.conf"

(umask 077 && head -c 128 /dev/urandom > "$folder/munge.key")
munged --force --key-file="$folder/munge.key" --socket="$folder/run/munge.socket" \
    --seed-file="$folder/run/munge.seed" --pid-file="$folder/run/munged.pid" \
    --log-file="$folder/log/munged.log" 2> /dev/null

# What stands for a GPU must be a character device: these are twins of /dev/null.
for gpu in 0 1; do
    [ -e "$folder/devices/gpu$gpu" ] || mknod "$folder/devices/gpu$gpu" c 1 3
done
echo "NodeName=node Name=gpu File=$folder/devices/gpu[0-1]" > "$folder/gres.conf"

# No control groups, so that it runs in a container. A credential that expires soon lets a job that
# is queued again start after some seconds instead of two minutes.
cat > "$SLURM_CONF" << END
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
GresTypes=gpu
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdSpoolDir=$folder/spool
SlurmdPidFile=$folder/run/slurmd.pid
SlurmdLogFile=$folder/log/slurmd.log
NodeName=node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=8 Gres=gpu:2
PartitionName=tests Nodes=node Default=YES MaxTime=INFINITE
END
slurmctld -c
slurmd -N node
for _ in $(seq 100); do
    if [ "$(sinfo --noheader --states=idle --format=%D 2> /dev/null)" = 1 ]; then exit; fi
    sleep 0.2
done
tail -n 5 "$folder"/log/*.log >&2
exit 1
