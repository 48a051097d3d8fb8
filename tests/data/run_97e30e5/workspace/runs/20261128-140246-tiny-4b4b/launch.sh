#!/bin/sh
# Run 20261128-140246-tiny-4b4b: written by `inv train`. Started by hand, it does the same in the foreground.
cd /home/robot/rdtops/runs/20261128-140246-tiny-4b4b || exit 1
export RDTOPS_RUN=20261128-140246-tiny-4b4b
export PYTHONPATH=/home/robot/rdtops/releases/97e30e5f-c977fcc5
export PYTHONUNBUFFERED=1
export PYTHONDONTWRITEBYTECODE=1
export OMP_NUM_THREADS=1
export HF_HUB_OFFLINE=1
export CUDA_DEVICE_ORDER=PCI_BUS_ID
[ "${RDTOPS_LEASE:-}" = 20261128-140246-tiny-4b4b ] || exec python3 -I /home/robot/rdtops/releases/97e30e5f-c977fcc5/rdtops/contract/lease.py /home/robot/rdtops/runs/20261128-140246-tiny-4b4b/config.json sh /home/robot/rdtops/runs/20261128-140246-tiny-4b4b/launch.sh  # its GPUs and this folder are its own, or it does not start
trap '' USR1 HUP  # Slurm sends USR1 to all before a time limit; the trainer hears it, its launcher would die of it
trap : TERM INT  # heard by the supervisor; this shell stays to write how it ended
rm -f exit stop
printf '%s %s %s\n' "$$" "$(cut -d' ' -f22 /proc/$$/stat)" "$(cat /proc/sys/kernel/random/boot_id)" > process.tmp
mv process.tmp process
printf '{"kind": "launched", "time_s": %s, "launcher": "%s", "pid": %s}\n' \
    "$(date +%s)" "${RDTOPS_LAUNCHER:-hand}" "$$" >> journal.jsonl
touch train.log
if [ -t 1 ]; then env -u RDTOPS_RUN tail -n 0 -F train.log & viewer=$!; fi
starts=0
while
(
cd /home/robot/rdtops/releases/97e30e5f-c977fcc5 || exit 1
exec python3 -m rdtops.supervisor /home/robot/rdtops/runs/20261128-140246-tiny-4b4b/config.json restarts=5 backoff_s=10 backoff_max_s=600 stuck_times=20 stuck_floor_s=300 setup_limit_s=7200 grace_s=120 -- python3 -m accelerate.commands.launch --multi_gpu --num_processes 2 --mixed_precision no --dynamo_backend no --num_cpu_threads_per_process 1 --num_machines 1 --main_process_port 0 -m rdtops.trainer.train /home/robot/rdtops/runs/20261128-140246-tiny-4b4b/config.json
) >> train.log 2>&1
code=$?
[ ! -e exit ] && [ "$code" -gt 128 ] && [ "$starts" -lt 100 ]  # the supervisor itself was killed
do starts=$((starts + 1)); sleep 1; done
[ -n "${viewer:-}" ] && kill "$viewer"
[ -e exit ] || { echo "$code" > exit.tmp && mv exit.tmp exit; }
exit "$code"
