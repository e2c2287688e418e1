"""Trials for a cluster: the job script that is submitted, and what it runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ODD = ["--data_root", "my data/$HOME", "--runs", 'it\'s "q"', "--losses_points", "bce=1+iou", ""]

GCO = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >> "$(dirname "$0")/ran"\n'
SBATCH = (
    '#!/usr/bin/env bash\npwd > "$FAKE/cwd"\ncat > "$FAKE/script"\necho sbatch >> "$FAKE/order"\n'
)
ENVIRONMENT = 'use_environment() { echo "environment $1 $2" >> "$FAKE/order"; }\n'


@pytest.fixture
def repo(tmp_path):
    """A copy of the script, with a gco.sh that notes its arguments and a faked sbatch."""
    repo = tmp_path / "re po"
    (repo / "utils").mkdir(parents=True)
    (repo / "bin").mkdir()
    shutil.copy(ROOT / "sub_by_id.sh", repo)
    shutil.copy(ROOT / "utils" / "environment.sh", repo / "utils")
    shutil.copy(ROOT / "requirements.txt", repo)
    for path, text in ((repo / "gco.sh", GCO), (repo / "bin" / "sbatch", SBATCH)):
        path.write_text(text)
        path.chmod(0o755)
    return repo


def run(repo, *arguments, **variables):
    """Run the copy where no environment is set up, as GCO_PYTHON names an interpreter."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SBATCH")}
    environment |= {"PATH": f"{repo / 'bin'}:{os.environ['PATH']}", "FAKE": str(repo)}
    environment |= {"GCO_PYTHON": "/bin/true", **variables}
    command = [str(repo / "sub_by_id.sh"), *arguments]
    return subprocess.run(command, cwd=repo.parent, env=environment, capture_output=True, text=True)


def job(repo, script, number):
    """Run a job script as the cluster would and return what gco.sh was given."""
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}
    subprocess.run(["bash"], input=script, text=True, cwd=repo, env=environment, check=True)
    return (repo / "ran").read_text().split("\n")[:-1]


@pytest.mark.parametrize("flags", [[], ODD])
def test_a_dry_run_prints_the_script_and_submits_nothing(repo, flags):
    done = run(repo, "10", "5", "--dry-run", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "#SBATCH --array=10-14\n" in done.stdout
    assert "#SBATCH --gres=gpu:1\n" in done.stdout
    assert job(repo, done.stdout, 12) == ["t12", "--seed", "12", *flags]
    assert not (repo / "order").exists()
    assert not (repo / "runs").exists()


@pytest.mark.parametrize("flags", [[], ODD])
def test_what_is_submitted_runs_gco_with_the_same_flags(repo, flags):
    done = run(repo, "3", "1", *flags, SBATCH_GRES="gpu:a100:1", SBATCH_TIME="1:00:00")
    assert (done.returncode, done.stderr) == (0, "")
    script = (repo / "script").read_text()
    assert "#SBATCH --array=3-3\n" in script
    assert "#SBATCH --gres=gpu:a100:1\n#SBATCH --time=1:00:00\n" in script
    # sbatch starts the jobs in the folder it is called in, and they write their logs to runs/.
    assert (repo / "cwd").read_text() == f"{repo}\n"
    assert (repo / "runs").is_dir()
    assert job(repo, script, 3) == ["t3", "--seed", "3", *flags]


def test_the_environment_is_set_up_once_before_the_jobs_start(repo):
    (repo / "utils" / "environment.sh").write_text(ENVIRONMENT)
    assert run(repo, "1", "3", "--dry-run").returncode == 0
    assert not (repo / "order").exists()
    assert run(repo, "1", "3").returncode == 0
    expected = [f"environment {repo / 'requirements.txt'} running", "sbatch"]
    assert (repo / "order").read_text().splitlines() == expected


def test_local_trials_run_one_after_another(repo):
    done = run(repo, "08", "2", "--local", "--lr", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    ran = (repo / "ran").read_text().split()
    assert ran == ["t8", "--seed", "8", "--lr", "0.1", "t9", "--seed", "9", "--lr", "0.1"]


@pytest.mark.parametrize(
    "arguments", [[], ["10"], ["10", "0"], ["10", "-1"], ["x", "2"], ["1.5", "2"], ["--dry-run"]]
)
def test_bad_arguments_leave_with_two_and_one_line(repo, arguments):
    done = run(repo, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: give the first ID")
    assert done.stderr.count("\n") == 1
    assert not (repo / "order").exists()


def test_without_a_cluster_it_says_so(repo):
    (repo / "bin" / "sbatch").unlink()
    if shutil.which("sbatch"):
        pytest.skip("there is a cluster here")
    done = run(repo, "1", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: sbatch is not here")


@pytest.mark.parametrize("flag", ["--seed", "--trial"])
def test_what_follows_from_the_id_is_refused(repo, flag):
    done = run(repo, "10", "5", "--dry-run", flag, "7")
    assert done.returncode == 2
    assert "follow from the ID" in done.stderr
    assert done.stdout == ""


def test_help_explains_the_use(repo):
    done = run(repo, "--help")
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
    assert "set -euo" not in done.stdout
