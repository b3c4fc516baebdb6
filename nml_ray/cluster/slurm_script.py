"""The script that sbatch is given, as text: it starts Ray on the allocation, runs the job on it, and ends it again.

    limit of time   Slurm sends USR1 beforehand: the job reaches a checkpoint, is queued again, and goes on from there
    `nml-ray stop`  leaves a file `stop` and sends USR2: the job reaches a checkpoint, and is not queued again
    lost node       Slurm itself queues the job again; it goes on from its last checkpoint

Ray on each node lives as long as srun's standard input is open: srun answers SIGTERM by killing what it started, and
the end of its input reaches every node even when the batch script is killed.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath

from nml_ray.cluster.command import job_command
from nml_ray.cluster.config import SlurmCluster
from nml_ray.cluster.submission import Submission
from nml_ray.ray_environment import SETTINGS

SCRIPT, CODE, TOKEN, OUTPUT, STOP, REASON = "job.sh", "code", "token", "output.log", "stop", "reason"
EPILOG = "epilog.sh"
MARGIN = 30  # seconds for the end of Ray, after those that the job gets
ADDRESS = "HEAD:PORT"

_POWERS = {"M": 2, "G": 3, "T": 4}


def directory_of(cluster: SlurmCluster, submission: Submission) -> PurePosixPath:
    """Where a submission's files lie, on the shared file system."""
    return PurePosixPath(cluster.directory) / submission.id


def mebibytes(memory: str) -> int:
    """An amount such as 64GiB in MiB, rounded up; a letter alone means what Slurm takes it for: 64G are 64 GiB."""
    parsed = re.fullmatch(r"([0-9.]+)([MGT])(i?B?)", memory)
    assert parsed, memory
    number, letter, unit = parsed.groups()
    base = 1000 if unit == "B" else 1024
    return int(-(-float(number) * base ** _POWERS[letter] // 2**20))


def limit_seconds(time: str) -> int:
    """A limit of time as sbatch takes it, in seconds: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS."""
    days, dash, rest = time.rpartition("-")
    numbers = [int(number) for number in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    else:
        hours, minutes, seconds = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def options(cluster: SlurmCluster, submission: Submission) -> dict[str, str]:
    """Of sbatch, by name; "" where an option has no value."""
    directory = directory_of(cluster, submission)
    asked = {
        "job-name": submission.id,
        "comment": f"nml-ray {submission.job}",
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "nodes": str(cluster.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(cluster.cpus_per_node or ""),
        "gpus-per-node": str(cluster.gpus_per_node or ""),
        "mem": f"{mebibytes(cluster.memory_per_node)}M" if cluster.memory_per_node else "",
        "time": cluster.time,
        "signal": f"B:USR1@{cluster.stop_seconds + MARGIN}",
        "chdir": str(directory / CODE),
        "output": str(directory / OUTPUT).replace("%", "%%"),
        "open-mode": "append",
    }
    given = {name: value for name, value in asked.items() if value}
    return given | {"requeue": ""} | ({"exclusive": ""} if cluster.exclusive else {})


def render(cluster: SlurmCluster, submission: Submission) -> str:
    """The script; secrets only as paths of files."""
    parts = (
        _header(cluster, submission),
        _environment(cluster, submission),
        _node_part(cluster),
        _batch_part(cluster, submission),
    )
    return "\n".join(parts)


def _header(cluster: SlurmCluster, submission: Submission) -> str:
    lines = [
        f"--{name}" + (f"={shlex.quote(value)}" if value else "")
        for name, value in options(cluster, submission).items()
    ]
    lines += [f"{shlex.quote(option)}" for option in cluster.options]
    return f"""\
#!/bin/bash
# Job {submission.id} of nml-ray. sbatch runs this file on the first node of the allocation; srun runs it once more on
# each node, with the word `node`, where it starts and ends Ray.
{"".join(f"#SBATCH {line}{chr(10)}" for line in lines)}"""


def _exports(values: Mapping[str, str]) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def _environment(cluster: SlurmCluster, submission: Submission) -> str:
    defaults = "\n".join(f': "${{{name}:={value}}}"; export {name}' for name, value in SETTINGS.items())
    setup = "\n".join(cluster.setup)
    environment = _exports(cluster.environment)
    return f"""\
directory={shlex.quote(str(directory_of(cluster, submission)))}
python={shlex.quote(cluster.python)}

{_block("The cluster file's lines for each node.", setup)}\
{_block("The cluster file's environment.", environment)}\
# A Ray of this job alone, with a token that only you can read; nobody else's is looked for.
unset RAY_ADDRESS RAY_API_SERVER_ADDRESS RAY_TMPDIR RAY_AUTH_TOKEN SLURM_EXPORT_ENV
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$directory/{TOKEN}"
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# Looks for the head, one every two seconds; Ray's own 20 are too few where the head comes up late.
export RAY_NUM_REDIS_GET_RETRIES={cluster.start_minutes * 30}
export PYTHONPATH="$directory/{CODE}${{PYTHONPATH:+:$PYTHONPATH}}" PYTHONUNBUFFERED=1
{defaults}
"""


def _block(comment: str, text: str) -> str:
    return f"# {comment}\n{text}\n\n" if text else ""


def _node_part(cluster: SlurmCluster) -> str:
    return f"""\
if [ "${{1:-}}" = node ]; then
    # The path is short: sockets lie below it, and theirs may have 107 bytes. What a killed attempt left is removed.
    # Ray opens its own directory to everybody, so that is one below this, which only you can enter.
    rm -rf "/tmp/nml-ray-$SLURM_JOB_ID-$SLURM_NODEID".*
    temp=$(mktemp -d "/tmp/nml-ray-$SLURM_JOB_ID-$SLURM_NODEID.XXXX") || exit 1
    ray=(--block --disable-usage-stats --temp-dir "$temp/r" --node-name "$SLURMD_NODENAME")
    ray+=(--num-cpus "$SLURM_CPUS_ON_NODE" --num-gpus {cluster.gpus_per_node} --dashboard-agent-listen-port 0)
    if [ "${{SLURM_MEM_PER_NODE:-0}}" -gt 0 ]; then
        # As Ray does, but of this job's share of the node: three tenths for objects, if shared memory has them.
        objects=$((SLURM_MEM_PER_NODE * 1048576 * 3 / 10))
        shared=$(df --block-size=1 --output=avail /dev/shm | tail -n 1)
        ray+=(--object-store-memory "$((objects < shared * 9 / 10 ? objects : shared * 9 / 10))")
    fi
    if [ "$SLURM_NODEID" = 0 ]; then
        # The address at which the other nodes already talk to this one; a single node talks to itself.
        if [ "$SLURM_STEP_NUM_NODES" = 1 ]; then host=127.0.0.1; else host=$SLURM_LAUNCH_NODE_IPADDR; fi
        ray+=(--head --node-ip-address "$host" --port "$port" --ray-client-server-port "$((port + 1))")
        ray+=(--dashboard-host 127.0.0.1 --dashboard-port "$((port + 2))")
        echo "$host:$port" > "$directory/address"
    else
        ray+=(--address "$SLURM_LAUNCH_NODE_IPADDR:$port")
    fi
    # The mark lets the reaper know what belongs to this Ray, also what has left its process group.
    NML_RAY_SESSION="$temp" "$python" -m nml_ray.cluster.slurm_ray start "${{ray[@]}}" > "$temp/start.log" 2>&1 &
    ray=$!
    cat <&0 > /dev/null & # ends with srun's input
    open=$!
    trap 'kill -TERM "$ray" 2> /dev/null' TERM
    wait -n "$ray" "$open"
    if kill -0 "$open" 2> /dev/null; then
        echo "nml-ray: Ray has ended on $SLURMD_NODENAME:"
        tail -n 30 "$temp/start.log"
        kill "$open"
    fi
    kill -TERM "$ray" 2> /dev/null
    "$python" -I -S "$directory/{CODE}/nml_ray/reaper.py" "$temp" < /dev/null
    exit
fi
"""


def _batch_part(cluster: SlurmCluster, submission: Submission) -> str:
    job = shlex.join(
        job_command(submission, cluster.python, stop_seconds=cluster.stop_seconds, address=ADDRESS)
    ).replace(ADDRESS, '"$address"')
    return f"""\
say() {{
    echo "nml-ray: $*"
}}

# The exit code is the job's; the reason is what `nml-ray status` says.
leave() {{
    say "$2"
    echo "$2" > "$directory/{REASON}"
    exit "$1"
}}

# Signals are passed on to what is at work: it ends, and what follows here depends on why.
why=
work=
interrupt() {{
    if [ "$why" != stop ]; then why=$1; fi
    signalled=1
    if [ -n "$work" ]; then kill -TERM "$work" 2> /dev/null; fi
}}
trap 'interrupt limit' USR1 # from Slurm, {cluster.stop_seconds + MARGIN} s before the limit of time or earlier
trap 'interrupt stop' USR2  # nml-ray stop
trap 'interrupt end' TERM   # scancel, or another job that takes this one's place

# Wait for a process, whose exit code this gives. A signal ends `wait` early.
await() {{
    work=$1
    if [ -n "$why" ]; then kill -TERM "$work" 2> /dev/null; fi
    while true; do
        signalled=
        wait "$work"
        code=$?
        if [ -z "$signalled" ]; then break; fi
    done
    work=
}}

preempted() {{
    scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q ' PreemptTime=[0-9]'
}}

# Queue again what reached its limit of time or made way for another job; end otherwise.
finish() {{
    if [ "$1" -eq 0 ]; then leave 0 "done"; fi
    if [ "$why" = stop ] || [ -e "$directory/{STOP}" ]; then leave "$1" "stopped"; fi
    if preempted; then
        say "another job takes its place: the job is queued again and will go on from its checkpoint"
        scontrol requeue "$SLURM_JOB_ID"
        exit "$1"
    fi
    if [ "$why" = end ]; then leave "$1" "cancelled"; fi
    if [ "$why" != limit ]; then leave "$1" "$2"; fi
    if [ "$restarts" -ge {cluster.restarts} ]; then
        leave "$1" "the limit of time was reached after $restarts restarts; submit the job again and it goes on"
    fi
    say "the limit of time is near: the job is queued again and will go on from its checkpoint"
    scontrol requeue "$SLURM_JOB_ID" || leave "$1" "the job could not be queued again; submit it again and it goes on"
    exit "$1"
}}

restarts=${{SLURM_RESTART_COUNT:-0}}
rm -f "$directory/{REASON}" "$directory/address"
if [ -e "$directory/{STOP}" ]; then leave 143 "stopped"; fi
if [ "$restarts" -gt {cluster.restarts} ]; then leave 1 "no restart is left (restarts)"; fi
say "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart $restarts of at most {cluster.restarts}"

# Ports of our own, drawn from the job's number, so that jobs can share a node.
taken() {{
    (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null
}}
export port={_first_port(cluster)}
while taken "$port" || taken "$((port + 1))" || taken "$((port + 2))"; do port=$((port + 10)); done

# What each node runs when Ray's part there has ended, also when scancel had it killed before it could clear up.
cat > "$directory/{EPILOG}" << 'END'
#!/bin/bash
for temp in "/tmp/nml-ray-$SLURM_JOB_ID-$SLURM_NODEID".*; do
    grep -lsz "^NML_RAY_SESSION=$temp\\$" /proc/[0-9]*/environ | grep -o '[0-9]\\+' | xargs -r kill -KILL 2> /dev/null
    rm -rf "$temp"
done
END
chmod 700 "$directory/{EPILOG}"

# Ray on all nodes, as long as the coprocess's input is open.
exec 3>&1
coproc {{ exec srun --ntasks-per-node=1 --cpu-bind=none --wait=0 --kill-on-bad-exit=0 \\
    --task-epilog="$directory/{EPILOG}" \\
    bash "$directory/{SCRIPT}" node >&3 2>&1 3>&-; }}
ray=$COPROC_PID open=${{COPROC[1]}}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
"$python" -m nml_ray.cluster.slurm_ray wait "$directory/address" {cluster.start_minutes * 60} "$ray" "${{nodes[@]}}" &
await $!
reason="Ray did not come up on all nodes"
if [ "$code" -eq 0 ] && [ -n "$why" ]; then code=143; fi
if [ "$code" -eq 0 ]; then
    address=$(cat "$directory/address")
    say "Ray has come up on ${{#nodes[@]}} nodes"
    {job} &
    await $!
    reason="the job failed with exit code $code"
fi

# The end of Ray, on every node; a node that does not answer is not waited for.
exec {{open}}>&-
for _ in $(seq {MARGIN}); do
    kill -0 "$ray" 2> /dev/null || break
    sleep 1
done
kill -TERM "$ray" 2> /dev/null
# The same on this node, where scancel ends the epilogue too.
for temp in "/tmp/nml-ray-$SLURM_JOB_ID-0".*; do
    if [ -d "$temp" ]; then "$python" -I -S "$directory/{CODE}/nml_ray/reaper.py" "$temp" < /dev/null; fi
done
finish "$code" "$reason"
"""


def _first_port(cluster: SlurmCluster) -> str:
    return str(cluster.port) if cluster.port else "$((20000 + SLURM_JOB_ID % 1200 * 10))"
