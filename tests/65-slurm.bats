#!/usr/bin/env bats
# Scoring through a real Slurm on this machine: LAUNCH='srun -n1', shards as jobs, a preempted shard redone alone.
# The cluster lives in a scratch directory with ports and a munge of its own. Needs the packages slurmctld, slurmd,
# slurm-client and munge, and root.
load helpers

setup_file() {
    local c
    for c in slurmctld slurmd srun munged; do
        command -v $c >/dev/null || return 0
    done
    [ "$(id -u)" -eq 0 ] || return 0
    export S
    S=$(mktemp -d /tmp/aq-slurm.XXXXXX)
    chmod 755 "$S"
    mkdir "$S/state" "$S/spool"
    local host port
    host=$(hostname -s)
    port=$((20000 + RANDOM % 20000))
    cat >"$S/slurm.conf" <<C
ClusterName=aq
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$S/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$S/state
SlurmdSpoolDir=$S/spool
SlurmctldPidFile=$S/slurmctld.pid
SlurmdPidFile=$S/slurmd.pid
SlurmctldLogFile=$S/slurmctld.log
SlurmdLogFile=$S/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1000
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
C
    (umask 077 && head -c 1024 /dev/urandom >"$S/munge.key")
    export SLURM_CONF=$S/slurm.conf
    munged --force --key-file="$S/munge.key" --socket="$S/munge.socket" --pid-file="$S/munge.pid" \
        --log-file="$S/munge.log" --seed-file="$S/munge.seed" 3>&- 4>&- || return 0
    slurmctld 3>&- 4>&-
    slurmd -N "$host" 3>&- 4>&-
    local i
    for i in $(seq 50); do
        if srun -n1 true 2>/dev/null; then
            touch "$S/up"
            return 0
        fi
        sleep 0.2
    done
}

teardown_file() {
    [ -n "${S:-}" ] || return 0
    local f
    for f in slurmd slurmctld munge; do
        if [ -e "$S/$f.pid" ]; then kill "$(cat "$S/$f.pid")" 2>/dev/null || true; fi
    done
    sleep 0.5
    rm -rf "$S"
}

setup() {
    [ -n "${S:-}" ] || skip "slurmctld, slurmd, srun and munged are not all installed, or not root"
    [ -e "$S/up" ] || skip "a one-machine Slurm could not be started here: see its logs in $S"
    cd "$REPO"
    unset MAKEFLAGS MAKELEVEL MFLAGS
    export AQ_BIN=$BIN
    W=$BATS_TEST_TMPDIR
}

# sweep ROOT VAR=VALUE...: two cells of the demo model
sweep() {
    local root=$1
    shift
    make -s -f pipelines/qwen3.mk PAIRS="wint8_afp16 wfp8_afp8" SIZES=small TMP_ROOT="$root" "$@"
}

scores() { (cd "$1/model-experiments/qwen3_lm_sensitivity/qwen3_vl_demo" && cat ./*/default/small/scores.json); }

@test "LAUNCH='srun -n1' SHARDS=2 gives the bytes of a local run" {
    aq 0 sweep "$W/local"
    aq 0 sweep "$W/slurm" SHARDS=2 LAUNCH='srun -n1' -j2
    is "$(scores "$W/slurm" | sha256sum)" "$(scores "$W/local" | sha256sum)"
    aq 0 sweep "$W/slurm" SHARDS=2 LAUNCH='srun -n1' -q
}

@test "a preempted shard fails the sweep, and is redone alone" {
    # the job of shard 2 is cancelled from inside, as a scheduler would
    cat >"$W/launch" <<'L'
#!/bin/bash
echo "$*" >>"$LOG"
if [[ "$*" == *"--shard 2/2"* ]] && [ ! -e "$LOG.preempted" ]; then
    touch "$LOG.preempted"
    exec srun -n1 bash -c 'scancel "$SLURM_JOB_ID"; sleep 30'
fi
exec srun -n1 "$@"
L
    chmod +x "$W/launch"
    export LOG=$W/log
    run sweep "$W/tree" SHARDS=2 LAUNCH="$W/launch" -k
    [ "$status" -ne 0 ]
    : >"$LOG"
    aq 0 sweep "$W/tree" SHARDS=2 LAUNCH="$W/launch"
    is "$(grep -c -- '--shard' "$LOG")" 1
    grep -q -- '--shard 2/2' "$LOG"
}
