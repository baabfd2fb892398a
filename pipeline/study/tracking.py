"""Experiment trackers, optional extras: each mirrors what TensorBoard gets. One file, one door: `tracked`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from pipeline.study.watching import run_name
from stages.parts.processes import rank_and_world

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from stages.parts.data.views import Array
    from stages.running.board import Tracker


@contextmanager
def tracked(plan: Plan, *, wandb: str = "", mlflow: str = "") -> Iterator[list[Tracker]]:
    """Gives the trackers of a plan's training run: a W&B project's, an MLflow experiment's; "" and ranks above 0: none.

    A run is found again by its fingerprint: `eval` goes on where `train` ended. Raises InputError where a library is
    missing or refuses.
    """
    with ExitStack() as stack:
        found: list[Tracker] = []
        if rank_and_world()[0] == 0:
            found += [stack.enter_context(_wandb(plan, wandb))] if wandb else []
            found += [stack.enter_context(_mlflow(plan, mlflow))] if mlflow else []
        yield found


def _told(plan: Plan) -> dict[str, Any]:
    return {"preset": plan.name, **plan.config.model_dump(mode="json", by_alias=True)}


class _Wandb:
    """A run of Weights & Biases."""

    def __init__(self, run: Any, image: Any) -> None:
        self.run, self.picture = run, image

    def scalar(self, name: str, value: float, iteration: int) -> None:
        self.run.log({name: value}, step=iteration)

    def image(self, name: str, pixels: Array, iteration: int) -> None:
        self.run.log({name: self.picture(pixels)}, step=iteration)


@contextmanager
def _wandb(plan: Plan, project: str) -> Iterator[Tracker]:
    """Credentials come from `wandb login` or WANDB_API_KEY alone."""
    try:
        import wandb
    except ImportError as error:
        raise InputError("--wandb: needs wandb; run `pip install wandb`, or leave the option out") from error
    try:
        run = wandb.init(
            project=project, id=plan.address("train").name, resume="allow", name=run_name(plan), config=_told(plan)
        )
    except Exception as error:  # wandb raises its own usage and network errors
        raise InputError(
            f"--wandb {project}: refused ({type(error).__name__}); see `wandb login`, or set WANDB_MODE=offline"
        ) from error
    try:
        yield _Wandb(run, wandb.Image)
    finally:
        run.finish()


class _Mlflow:
    """The active run of MLflow."""

    def __init__(self, mlflow: Any) -> None:
        self.mlflow = mlflow

    def scalar(self, name: str, value: float, iteration: int) -> None:
        self.mlflow.log_metric(_plain(name), value, step=iteration)

    def image(self, name: str, pixels: Array, iteration: int) -> None:
        self.mlflow.log_image(pixels, key=_plain(name), step=iteration)


@contextmanager
def _mlflow(plan: Plan, experiment: str) -> Iterator[Tracker]:
    """The server and its credentials come from MLFLOW_TRACKING_URI and its like alone."""
    try:
        import mlflow
    except ImportError as error:
        raise InputError("--mlflow: needs mlflow; run `pip install mlflow`, or leave the option out") from error
    try:
        mlflow.set_experiment(experiment)
        tag = plan.address("train").name
        earlier = mlflow.search_runs(
            experiment_names=[experiment], filter_string=f"tags.address = '{tag}'", output_format="list", max_results=1
        )
        if earlier:
            mlflow.start_run(run_id=earlier[0].info.run_id)
        else:
            mlflow.start_run(run_name=run_name(plan), tags={"address": tag})
            mlflow.log_dict(_told(plan), "settings.json")
    except Exception as error:  # mlflow raises its own, and those of its store and network
        where = os.environ.get("MLFLOW_TRACKING_URI", "its default store")
        raise InputError(
            f"--mlflow {experiment}: refused by {where} ({type(error).__name__}); set MLFLOW_TRACKING_URI"
        ) from error
    try:
        yield _Mlflow(mlflow)
    finally:
        mlflow.end_run()


def _plain(name: str) -> str:
    """A name of letters that MLflow takes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "-" for c in name)
