"""Claims about torchrun: what several processes make is what one makes, and a killed one changes nothing.

Two processes, gloo, CPU. Training is compared in double precision: there 8 steps of two processes and of one agree
to 1e-9, so what differs in single precision is rounding, which AdamW and batch norms blow up from step to step.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cache.errors import InputError
from cache.location import Location
from stages import evaluate
from stages.parts.settings import TrainConfig
from stages.running.compute import Compute
from stages.train import check_shares

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from tests.conftest import Tiny

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torchrun")]  # one worker, so each job runs once
ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = (
    "extract.shard=1", "extract.batch=1", "student.arch=unet", "latent-embedding.dropout=0", "distill.negatives=batch",
    "distill.same_concept=positive", "train.iterations=8", "train.batch=8", "train.grad_accumulation_steps=2",
    "eval.pictures=3", "eval.background=true",
)  # fmt: skip

JOB = """
import os, signal, sys, time
from pathlib import Path
import stages.running.progress
from cache.store import Artifact
from pipeline.cli import app

signs, preset, artifacts, kill, *overrides = sys.argv[1:]
signs, rank, world = Path(signs), int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
stages.running.progress.WAIT_SECONDS, write = 0.1, Artifact.write


def die(where, whoever=False):
    if (rank == 1 or whoever) and kill == "kill" and not (signs / f"killed in {where}").exists():
        (signs / f"killed in {where}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def together(self, shard, *rest):
    # Both take part: the first shard of each waits for the other's first.
    if self.kind == "concepts":  # written by one alone, the other waits
        die(self.kind, whoever=True)
    if world > 1 and self.kind in ("tokens", "latent", "membership"):
        mine, other = (signs / f"{self.kind} by {r}" for r in (rank, 1 - rank))
        mine.touch()
        until = time.monotonic() + 300
        while not other.exists() and time.monotonic() < until:
            time.sleep(0.02)
        die(self.kind)
    return write(self, shard, *rest)


def doubled():
    import torch
    import stages.train

    def stepped(self, iteration, batch):
        if iteration == 5:
            die("train")
        return step(self, iteration, batch)

    step, stages.parts.learning.trainer.Trainer.step = stages.parts.learning.trainer.Trainer.step, stepped
    stages.train.LOG_EVERY, stages.train.CHECKPOINT_SECONDS, stages.train._pictures = 1, 0.0, lambda *_: None
    single, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    yield
    torch.Tensor.float = single
    torch.set_default_dtype(torch.float32)


Artifact.write = together
for stage in ("extract", "mine-latent", "mine-concepts", "train", "eval"):
    settings = [part for override in overrides for part in ("--set", override)]
    flags = ["--artifacts", artifacts, "--device", "cpu"]
    flags += ["--workers", "0"] if stage != "mine-concepts" else []
    for _ in doubled() if stage == "train" else [None]:
        app([stage, preset, *flags, *settings], standalone_mode=False)
"""


class Jobs:
    """Runs all five stages on the tiny preset in `processes` processes; returns the plan of what they made."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder
        (folder / "job.py").write_text(JOB)

    def run(self, name: str, processes: int, *, kill: bool = False) -> Plan:
        signs, artifacts = self.folder / f"{name}-signs", self.folder / name
        signs.mkdir()
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--max-restarts=5"]
        job = [str(self.folder / "job.py"), str(signs), str(self.tiny.preset), str(artifacts)]
        command = [sys.executable, *(launch if processes > 1 else []), *job, "kill" if kill else "", *OVERRIDES]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=900)
        assert done.returncode == 0, done.stderr[-5000:]
        self.said = done.stdout
        return self.tiny.plan(*OVERRIDES, artifacts=artifacts)


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def jobs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tiny, tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def one(jobs: Jobs) -> Plan:
    return jobs.run("one", 1)


@pytest.fixture(scope="module")
def two(jobs: Jobs) -> Plan:
    made = jobs.run("two", 2)
    assert jobs.said.count("extract: 12 views") == jobs.said.count("train: 8 iterations") == 1  # one process speaks
    return made


@pytest.fixture(scope="module")
def killed(jobs: Jobs) -> Plan:
    made = jobs.run("killed", 2, kill=True)
    signs = {sign.name for sign in (jobs.folder / "killed-signs").iterdir()}
    assert {f"killed in {where}" for where in ("tokens", "latent", "concepts", "membership", "train")} <= signs
    return made


def cache_of(plan: Plan, contents: Callable[[Path], dict[str, bytes]]) -> dict[str, bytes]:
    folder = plan.address("tokens").path
    assert folder is not None
    return {name: data for name, data in contents(folder.parent).items() if ".zarr/" in name}


def curves(plan: Plan) -> list[dict[str, float]]:
    return [json.loads(line) for line in (plan.address("train").get("curves.jsonl") or b"").splitlines()]


def test_two_processes_fill_the_cache_of_one_bit_for_bit(
    one: Plan, two: Plan, jobs: Jobs, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    alone, shared = cache_of(one, contents), cache_of(two, contents)
    assert alone.keys() == shared.keys() and any("latent" in name for name in alone)
    assert [name for name in alone if alone[name] != shared[name]] == []
    for kind in ("tokens", "latent", "membership"):
        assert all((jobs.folder / "two-signs" / f"{kind} by {rank}").exists() for rank in (0, 1))


def test_two_processes_have_the_loss_curve_of_one_with_the_same_batch(one: Plan, two: Plan) -> None:
    """Every term; batch norms, the bank, N_m, regions of the whole batch and accumulated parts must be right for it."""
    alone, shared = curves(one), curves(two)
    assert [point["iteration"] for point in shared] == list(range(8))
    assert {"total", "global", "local", "focal", "dice", "cross_entropy"} <= shared[0].keys()
    for a, b in zip(alone, shared, strict=True):
        assert b == pytest.approx(a, rel=1e-9)
    assert shared[-1]["total"] < 0.5 * shared[0]["total"]


def test_two_processes_score_as_one_does(two: Plan, tmp_path: Path) -> None:
    """The same student: report, confusion matrix and every picture."""
    out, shared = Location(str(tmp_path)), two.address("eval")
    evaluate.run(
        two.config.eval,
        two.val_data,
        two.artifact("text"),
        two.address("train"),
        out,
        train=two.train_data,
        compute=Compute(torch.device("cpu")),
    )
    assert scores(out) == scores(shared) and scores(out)["background"]["kept"] == 95
    assert set(shared.names()) == {f"{n}.png" for n in ("grid", "best", "worst", "confusion")} | {
        f"{n}.json" for n in ("confusion", "bias_curve", "report", "complete")
    }
    for name in ("grid.png", "best.png", "worst.png", "confusion.png", "confusion.json", "bias_curve.json"):
        assert out.get(name) == shared.get(name), name


def scores(at: Location) -> dict[str, Any]:
    return {k: v for k, v in at.get_json("report.json").items() if k not in ("images_per_second", "seal")}


def test_a_rank_killed_while_the_cache_is_filled_changes_no_bit(
    two: Plan, killed: Plan, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    wanted, found = cache_of(two, contents), cache_of(killed, contents)
    found = {name: data for name, data in found.items() if not name.rpartition("#")[2].isdigit()}  # half-written
    # The claims of killed processes stay until their lease ends or `cache gc`, that of a shard too where it fell
    # between the commit and its end; they hold no numbers.
    claims = [name for name in found if ".zarr/writers/" in name or name.endswith("/claim.json")]
    found = {name: data for name, data in found.items() if name not in claims}
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if wanted[name] != found[name]] == []


def test_a_rank_killed_in_training_leaves_the_curve_as_it_was(two: Plan, killed: Plan) -> None:
    assert curves(killed) == curves(two)
    student = two.address("train").get("student.safetensors")
    assert student is not None and killed.address("train").get("student.safetensors") == student


def test_a_batch_that_cannot_be_divided_is_refused_in_one_line() -> None:
    check_shares(TrainConfig(batch=12, grad_accumulation_steps=3), 4)
    with pytest.raises(InputError, match=r"train\.batch = 12 can't be divided among 4 processes x .* 2; set .* of 8"):
        check_shares(TrainConfig(batch=12, grad_accumulation_steps=2), 4)
