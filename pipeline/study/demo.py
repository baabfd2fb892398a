"""`clip2seg demo`: the real pipeline on the embedded default, from nothing to a score table and pictures."""

from __future__ import annotations

from typing import Any

from pipeline import run, score
from pipeline import text as report
from pipeline.inspection.opened import Inspection
from pipeline.inspection.questions import ask
from pipeline.invocation import Invocation, program
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.shown import link
from pipeline.study import showcase
from stages.running.progress import say


def next_steps(typed: Invocation) -> str:
    """Commands to go on with, for the configuration that was run."""
    table = typed.command("ablate", "--table", "3", "--seeds", "3")
    return (
        f"next:\n"
        f"  {typed.command('plan')}\n    the stages and their addresses\n"
        f"  {typed.command('inspect', 'quality')}\n    does the teacher name what it sees?\n"
        f"  {typed.command('inspect', 'explore')}\n    one HTML file to look around in\n"
        f"  {table}\n    the paper's Table 3 on this world\n"
        f"  {program()} extract voc --data VOCdevkit/VOC2012\n    the real thing (needs OpenAI CLIP weights and a GPU)"
    )


def run_demo(preset: str, artifacts: str, overrides: list[str], machine: Machine) -> tuple[str, dict[str, Any]]:
    """Runs every stage with the two reference rows; returns what to print and the scores."""
    plan = Plan.open(preset, overrides, artifacts)
    # What a stage found is said when it ends: a log that tells nothing for minutes looks like a hang.
    say(report.plan_table(plan))
    say(report.extract_text(plan.invocation, run.extract(plan, machine)))
    say(report.mine_text(run.mine_latent(plan, machine)))
    say("teacher, training-free: scoring it, for comparison")
    score.evaluate_teacher(plan, machine)
    reference = report.baseline(plan)
    say("training 1 of 2: the baseline, labels of seen classes only")
    say(report.train_text(run.train(reference, machine)))
    score.evaluate(reference, machine)
    say("training 2 of 2: the full method")
    say(report.train_text(run.train(plan, machine)))
    result = score.evaluate(plan, machine)
    texts: list[str] = []
    of = Inspection(plan, machine, "")
    view = next(iter(plan.artifact("tokens").ids()))
    for question, what in (("summary", ""), ("image", view)):
        texts.append(ask(of, question, what, count=-1, full_labels=False, vocabulary="")[0])
    result["strip"] = showcase.draw(plan, reference, machine)
    looked = f"baseline and full method side by side: {link(result['strip'])}"
    texts += [f"{report.eval_text(plan, result)}\n{looked}", next_steps(plan.invocation)]
    return "\n\n".join(texts), result
