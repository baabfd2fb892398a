"""Tries a student before hours are spent on it: some networks refuse an image size, or a single image, only when they
meet it."""

from __future__ import annotations

import copy

import torch

from cache.errors import InputError, first_line
from stages.parts.students import StudentConfig
from stages.parts.students.build import Student

_REFUSALS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)
_ONE_VALUE = "more than 1 value per channel"


def check_sizes(student: Student, cfg: StudentConfig, size: int) -> None:
    """Raises InputError where the student refuses a training crop of `size` pixels, or photos of any size.

    Runs it twice in eval mode on black images; leaves its weights, its mode and torch's generator as they are.
    """
    training = student.training
    student.eval()
    device, cell = next(student.parameters()).device, student.divisor
    try:
        # Evaluation and prediction meet photos of any size: one and two cells more, so that one count is odd.
        for height, width in ((size, size), (size + cell - 3, size + 2 * cell - 5)):
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    student(torch.zeros((1, 3, height, width), device=device))
            except _REFUSALS as error:
                reason = first_line(error)[:200]
                remedy = "views.size, student.arch or student.encoder" if height == size else "student.encoder or arch"
                raise InputError(
                    f"student: arch {cfg.arch!r} on encoder {cfg.encoder!r} refuses photos of {height} x {width} "
                    f"pixels ({reason}); change {remedy}"
                ) from error
    finally:
        student.train(training)


def check_pass(student: Student, cfg: StudentConfig, size: int, batch: int, parts: int) -> None:
    """Raises InputError where batch normalisation can't train on the images of one of `parts` parts of a batch.

    Only shapes are computed: no arithmetic, no random number.
    """
    images = batch // parts
    if images != 1:
        return
    shapes = copy.deepcopy(student).to("meta").train()
    try:
        shapes(torch.empty((images, 3, size, size), device="meta"))
    except ValueError as error:
        if _ONE_VALUE in str(error):
            raise InputError(
                f"student.arch = {cfg.arch!r} normalises over the images of a pass, and train.batch = {batch} with "
                f"train.grad_accumulation_steps = {parts} leaves one; set train.batch={2 * parts} or more"
                + (f", or train.grad_accumulation_steps={batch // 2} or less" if batch > 1 else "")
            ) from error
    except (NotImplementedError, RuntimeError):  # an operation that knows no shapes without values: training will tell
        return
