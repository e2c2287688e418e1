"""Many trials: the job scripts that are submitted, what they run, and the same without Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.files import read_json

ROOT = Path(__file__).resolve().parent.parent
ODD = ["--data_root", "my data/$HOME", "--runs", 'it\'s "q"', "--losses_points", "bce=1+iou", ""]

GCO = """#!/usr/bin/env bash
printf "%s\\n" "$@" > "$FAKE/arguments"
trap 'echo TERM > "$FAKE/signalled"; exit 75' TERM
if [ "${WAIT:-}" ]; then touch "$FAKE/waits"; sleep 20 & wait; fi
exit "${GCO_STATUS:-0}"
"""
SBATCH = """#!/usr/bin/env bash
number=$(($(cat "$FAKE/submitted" 2> /dev/null || echo 16) + 1))
echo "$number" > "$FAKE/submitted"
pwd > "$FAKE/cwd-$number"
cat > "$FAKE/script-$number"
env > "$FAKE/environment-$number"
echo sbatch >> "$FAKE/order"
[ "$number" != "${REFUSED:-}" ] || exit 1
echo "$number;cluster"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >> "$FAKE/scontrol"
echo "   JobState=${JOB_STATE:-RUNNING} Reason=None"
"""
PYTHON = """#!/usr/bin/env bash
case "$*" in
    *config.py*--bad*) echo "error: unknown flag --bad" >&2; exit 2 ;;
    *config.py*) exit ;;
esac
exec "$REAL_PYTHON" "$@"
"""
ENVIRONMENT = """
use_environment() { echo "environment $1 $2" >> "$FAKE/order"; PYTHON="$GCO_PYTHON"; }
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A copy of the script, with a gco.sh that notes its arguments and a faked Slurm."""
    repo = tmp_path / "re po"
    shutil.copytree(ROOT / "utils", repo / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("config.py", "sub_by_id.sh", "requirements.txt"):
        shutil.copy(ROOT / name, repo)
    (repo / "bin").mkdir()
    fakes = {"sbatch": SBATCH, "scontrol": SCONTROL, "squeue": "#!/bin/sh\n", "python": PYTHON}
    for path, text in {"gco.sh": GCO, **{f"bin/{name}": fakes[name] for name in fakes}}.items():
        (repo / path).write_text(text)
        (repo / path).chmod(0o755)
    return repo


def environment_of(repo: Path, **variables: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SBATCH", "SLURM"))}
    kept |= {"PATH": f"{repo / 'bin'}:{os.environ['PATH']}", "FAKE": str(repo)}
    kept |= {"GCO_PYTHON": str(repo / "bin" / "python"), "REAL_PYTHON": sys.executable}
    return kept | variables


def run(repo: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command, env = [str(repo / "sub_by_id.sh"), *arguments], environment_of(repo, **variables)
    return subprocess.run(command, cwd=repo.parent, env=env, capture_output=True, text=True)


def job(repo: Path, script: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a job script as the cluster would, for t12."""
    env = environment_of(repo, SLURM_ARRAY_TASK_ID="12", SLURM_ARRAY_JOB_ID="17", **variables)
    return subprocess.run(["bash"], input=script, text=True, env=env, capture_output=True)


def arguments(repo: Path) -> list[str]:
    return (repo / "arguments").read_text().split("\n")[:-1]


@pytest.mark.parametrize("flags", [[], ODD])
def test_a_dry_run_prints_both_scripts_and_submits_nothing(repo: Path, flags: list[str]) -> None:
    done = run(repo, "10", "5", "--dry-run", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    trials, choice = done.stdout.split("\n\n")
    for line in ("array=10-14", "gres=gpu:1", "time=24:00:00", "requeue", "signal=B:USR1@120"):
        assert f"#SBATCH --{line}\n" in trials
    assert "--partition" not in trials
    assert "#SBATCH --dependency=afterany:" in choice
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in choice
    assert "--gres" not in choice
    assert " --choose 10 5 --runs " in choice
    assert job(repo, trials).returncode == 0
    assert arguments(repo) == ["t12", "--seed", "12", *flags]
    assert not (repo / "order").exists()
    assert not (repo.parent / "runs").exists()


def test_flags_say_what_a_trial_gets_then_the_environment(repo: Path) -> None:
    flags = "--gres none --time=1:00:00 --partition fast --cpus 4 --mem 8G".split()
    env = {"SBATCH_GRES": "gpu:a100:2", "SBATCH_TIMELIMIT": "2:00:00", "SBATCH_PARTITION": "slow"}
    trials, choice = run(repo, "1", "2", "--dry-run", *flags, "--lr", "3").stdout.split("\n\n")
    for line in ("time=1:00:00", "partition=fast", "cpus-per-task=4", "mem=8G"):
        assert f"#SBATCH --{line}\n" in trials
    assert "--gres" not in trials
    assert "#SBATCH --partition=fast\n" in choice
    job(repo, trials)
    assert arguments(repo) == ["t12", "--seed", "12", "--lr", "3"]
    trials, _ = run(repo, "1", "2", "--dry-run", **env).stdout.split("\n\n")
    assert "#SBATCH --gres=gpu:a100:2\n#SBATCH --time=2:00:00\n" in trials
    assert (
        "#SBATCH --gres=nonesuch:1\n"
        in run(repo, "1", "2", "--dry-run", "--gres=nonesuch:1").stdout
    )
    env |= {"SBATCH_SIGNAL": "TERM@5", "SBATCH_NO_REQUEUE": "1", "SBATCH_MEM_PER_CPU": "1G"}
    env |= {"SBATCH_ERROR": "elsewhere", "SBATCH_WAIT": "1"}
    assert run(repo, "1", "2", *flags, **env).returncode == 0
    told = (repo / "environment-17").read_text()
    assert "SBATCH_" not in told  # sbatch would put it above the lines of the script


def test_trials_are_submitted_and_then_the_choice_among_them(repo: Path) -> None:
    done = run(repo, "3", "2", *ODD)
    assert (done.returncode, done.stderr) == (0, "")
    runs = repo.parent / 'it\'s "q"'
    # By its folder a job is known again, and logs go there.
    assert (repo / "cwd-17").read_text() == (repo / "cwd-18").read_text() == f"{runs}\n"
    assert "#SBATCH --dependency=afterany:17\n" in (repo / "script-18").read_text()
    first, second, third = done.stdout.splitlines()
    assert first == f"t3 .. t4: job 17, logs in {runs.name}/slurm-17_<ID>.log"
    assert second.startswith("choice: job 18, after them")
    assert "--status 3 2" in third
    assert job(repo, (repo / "script-17").read_text()).returncode == 0
    assert arguments(repo) == ["t12", "--seed", "12", *ODD]
    chosen = job(repo, (repo / "script-18").read_text())
    assert chosen.returncode == 2
    assert "not finished, left out: t4 (not begun)" in chosen.stderr
    assert "error: t3 .. t4: none is finished" in chosen.stderr


def test_a_refused_job_is_told(repo: Path) -> None:
    done = run(repo, "3", "2", REFUSED="17")
    assert done.returncode == 1
    assert (repo / "order").read_text() == "sbatch\n"
    (repo / "submitted").unlink()
    done = run(repo, "3", "2", REFUSED="18")
    assert done.returncode == 2
    assert "job 17 runs, but nothing chooses after it" in done.stderr


@pytest.mark.parametrize(
    ("status", "state", "queued_again"),
    [("75", "RUNNING", True), ("75", "COMPLETING", False), ("1", "RUNNING", False)],
)
def test_a_stopped_trial_is_queued_again_unless_slurm_ends_it(
    repo: Path, status: str, state: str, queued_again: bool
) -> None:
    script = run(repo, "12", "1", "--dry-run").stdout.split("\n\n")[0]
    done = job(repo, script, GCO_STATUS=status, JOB_STATE=state)
    assert done.returncode == int(status)
    asked = (repo / "scontrol").read_text() if (repo / "scontrol").exists() else ""
    assert ("requeue 17_12" in asked) == queued_again


def test_the_warning_of_the_time_limit_reaches_gco(repo: Path) -> None:
    script = run(repo, "12", "1", "--dry-run").stdout.split("\n\n")[0]
    env = environment_of(repo, SLURM_ARRAY_TASK_ID="12", SLURM_ARRAY_JOB_ID="17", WAIT="1")
    process = subprocess.Popen(["bash", "-c", script], env=env)
    while not (repo / "waits").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(15) == 75
    assert (repo / "signalled").read_text() == "TERM\n"
    assert "requeue 17_12" in (repo / "scontrol").read_text()


def test_trials_in_the_queue_are_refused(repo: Path) -> None:
    folder = repo.parent / "runs"
    (repo / "bin" / "squeue").write_text(f"#!/bin/sh\necho 9 4 PENDING {folder}\n")
    done = run(repo, "3", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: t4 (job 9_4, pending): submitted already")
    assert not (repo / "order").exists()
    assert run(repo, "3", "2", "--runs", "others").returncode == 0
    assert run(repo, "5", "2").returncode == 0
    assert run(repo, "3", "2", "--force").returncode == 0


def test_a_wrong_flag_of_gco_is_told_before_anything_is_submitted(repo: Path) -> None:
    done = run(repo, "3", "2", "--bad", "1")
    assert (done.returncode, done.stderr) == (2, "error: unknown flag --bad\n")
    assert not (repo / "order").exists()


def test_the_environment_is_set_up_once_before_the_jobs_start(repo: Path) -> None:
    (repo / "utils" / "environment.sh").write_text(ENVIRONMENT)
    assert run(repo, "1", "3", "--dry-run").returncode == 0
    assert not (repo / "order").exists()
    assert run(repo, "1", "3").returncode == 0
    expected = [f"environment {repo / 'requirements.txt'} running", "sbatch", "sbatch"]
    assert (repo / "order").read_text().splitlines() == expected


@pytest.mark.parametrize(
    "arguments", ["", "10", "10 0", "10 -1", "x 2", "1.5 2", "--dry-run", "--choose", "--status 3"]
)
def test_bad_arguments_leave_with_two_and_one_line(repo: Path, arguments: str) -> None:
    done = run(repo, *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: give the first ID")
    assert done.stderr.count("\n") == 1
    assert not (repo / "order").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--seed 7", "follow from the ID"),
        ("--trial=x", "follow from the ID"),
        ("--local", "--local needs a value"),
        ("--local x", "tell how many trials at a time"),
        ("--local 0", "tell how many trials at a time"),
        ("--gres", "--gres needs a value"),
        ("--dry-run --local 2", "give one of --status, --choose, --dry-run and --local"),
        ("--local 2 --dry-run", "give one of --status, --choose, --dry-run and --local"),
        ("--dry-run --status", "--status stands before the IDs"),
        ("--local 2 --gres gpu:2", "--gres is what Slurm gives: leave it out with --local"),
        ("--mem=8G --local 2", "--mem is what Slurm gives: leave it out with --local"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(repo: Path, flags: str, told: str) -> None:
    done = run(repo, "10", "5", *flags.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("mode", ["--status", "--choose"])
@pytest.mark.parametrize("more", ["--dry-run", "--local 2"])
def test_who_asks_or_chooses_submits_nothing(repo: Path, mode: str, more: str) -> None:
    done = run(repo, mode, "10", "5", *more.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "give one of --status, --choose, --dry-run and --local" in done.stderr


@pytest.mark.parametrize("mode", ["--status", "--choose"])
@pytest.mark.parametrize("more", ["--metric maxF", "--run=other", "--gres gpu:1", "--force"])
def test_who_asks_or_chooses_is_told_of_flags_that_change_nothing(
    repo: Path, mode: str, more: str
) -> None:
    done = run(repo, mode, "10", "5", "--runs", "r", *more.split())
    assert (done.returncode, done.stdout) == (2, "")
    flag = more.replace("=", " ").split()[0]
    assert done.stderr == f"error: {flag} means nothing with {mode}, which takes --runs alone\n"


@pytest.mark.parametrize("force", ["", "--force"])
def test_missing_sets_are_told_before_anything_is_submitted(repo: Path, force: str) -> None:
    """But where they can be seen from the nodes of the cluster alone."""
    for name in ("active_learning", "datasets", "losses", "models"):
        (repo / name).symlink_to(ROOT / name)
    (repo / "bin" / "python").write_text('#!/bin/sh\nexec "$REAL_PYTHON" "$@"\n')
    flags = ["--data_root", str(repo / "nothing"), "--trainset", "A", *filter(None, [force])]
    done = run(repo, "3", "2", *flags)
    assert done.returncode == (0 if force else 2), done.stderr
    assert (repo / "order").exists() == bool(force)
    if not force:
        assert str(repo / "nothing") in done.stderr


def test_without_a_cluster_it_says_so(repo: Path) -> None:
    (repo / "bin" / "sbatch").unlink()
    for tool in ("bash", "dirname"):
        (repo / "bin" / tool).symlink_to(shutil.which(tool))
    done = run(repo, "1", "2", PATH=str(repo / "bin"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: sbatch is not here")


def test_help_explains_the_use(repo: Path) -> None:
    done = run(repo, "--help")
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
    assert done.stdout.rstrip().endswith("the same command is given again.")


@pytest.fixture
def stub(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose interpreter runs stages that learn nothing."""
    python, stages = tmp_path / "python", ROOT / "tests" / "stub_stages.py"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stages}" "$@"\n')
    python.chmod(0o755)
    return {**os.environ, "GCO_PYTHON": str(python), "CUDA_VISIBLE_DEVICES": "5,7"}


LOCAL = [str(ROOT / "sub_by_id.sh"), "011", "3", "--local", "2"]


def test_local_trials_run_some_at_a_time_and_one_that_fails_stops_no_other(
    tmp_path: Path, stub: dict[str, str]
) -> None:
    env = {**stub, "STUB_FAIL": "11"}
    done = subprocess.run(LOCAL, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "finished: t12 t13; failed: t11\n" in done.stdout
    assert "t11: failed with status 2, see runs/local-t11.log" in done.stdout
    assert "error: made to fail" in (tmp_path / "runs" / "local-t11.log").read_text()
    assert "not finished, left out: t11" in done.stderr
    assert read_json(tmp_path / "runs" / "choice-11-13" / "best.json")["trial"] == "t12"
    ran = (tmp_path / "runs" / "ran").read_text().splitlines()
    devices = {line.split()[0]: line.split()[2] for line in ran}
    assert {devices["t11"], devices["t12"]} == {"devices=5", "devices=7"}

    done = subprocess.run(LOCAL, cwd=tmp_path, env=stub, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished: t11 t12 t13\n" in done.stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_local_trials_that_are_stopped_save_and_go_on(
    tmp_path: Path, stub: dict[str, str], number: signal.Signals, status: int
) -> None:
    env = {**stub, "STUB_SECONDS": "0.3"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        LOCAL, cwd=tmp_path, env=env, stdout=pipe, text=True, start_new_session=True
    )
    logs = [tmp_path / "runs" / f"t{trial}" / "round_00" / "log.csv" for trial in (11, 12)]
    while not all(log.exists() for log in logs):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    told = process.communicate(timeout=30)[0]
    assert process.returncode == status
    assert f"stopped by {number.name}" in told
    assert "to go on: " in told
    for trial in (11, 12):
        assert (tmp_path / "runs" / f"local-t{trial}.log").read_text().count("stopped, saved") == 1
    assert not (tmp_path / "runs" / "t13").exists()
    assert not (tmp_path / "runs" / "choice-11-13").exists()
    done = subprocess.run(LOCAL, cwd=tmp_path, env=stub, capture_output=True, text=True)
    assert done.returncode == 0
    for log in logs:
        assert len(log.read_text().splitlines()) == 11
