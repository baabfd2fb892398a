"""Recipes against plain loops in float64, written from docs/teachers.md and nothing of recipes.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import open_clip
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor, nn

from cache.errors import InputError
from stages.parts.teacher.affinity import local_outlier_factor, outliers, pooled_by, repaired
from stages.parts.teacher.recipes import RECIPES, calibrated_attention, neighbourhood, scaled_layer
from stages.parts.teacher.settings import TeacherConfig
from stages.parts.teacher.teacher import Teacher, load_teacher
from tests.stages.parts.teacher.test_teacher import MEAN, STD, VIT, D, write_teacher

TOWERS: dict[str, dict[str, Any]] = {
    "vit": {**VIT, "layers": 3},
    "vit-average": {
        **VIT,
        "layers": 4,
        "pool_type": "avg",
        "final_ln_after_pool": True,
        "no_ln_pre": True,
        "ls_init_value": 0.3,
    },
    "one-block": {**VIT, "layers": 1},
}
SIZE = 48
GRID = (6, 6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: write_teacher(tmp_path_factory.mktemp("t") / name, tower) for name, tower in TOWERS.items()}


def teacher(name: str, recipe: Any = "vanilla", **settings: Any) -> Teacher:
    return load_teacher(TeacherConfig(model=name, recipe=recipe, input_size=SIZE, gaussian_std=1.5, **settings))


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def close(got: Tensor, wanted: Tensor, rtol: float = 2e-4) -> None:
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.double(), wanted.double(), rtol=rtol, atol=rtol * float(wanted.abs().max()))


class Slow:
    """One image through open_clip's own tower, float64, tokens as numpy rows; heads and tokens in loops."""

    def __init__(self, visual: Any, pixels: Tensor) -> None:
        self.visual = visual.double()
        self.blocks = list(visual.transformer.resblocks)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        with torch.no_grad():
            tokens = self.visual._embeds(((pixels.float() / 255 - mean) / std).double()[None])
            self.layers = [tokens[0].numpy()]
            for block in self.blocks:
                tokens = block(tokens)
                self.layers.append(tokens[0].numpy())

    def run(self, module: nn.Module, rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            result: np.ndarray = module(torch.from_numpy(rows)).numpy()
        return result

    def qkv(self, block: Any, rows: np.ndarray) -> list[np.ndarray]:
        weight, bias = (p.detach().numpy() for p in (block.attn.in_proj_weight, block.attn.in_proj_bias))
        return np.split(self.run(block.ln_1, rows) @ weight.T + bias, 3, axis=1)

    def heads(self, rows: np.ndarray) -> list[slice]:
        size = rows.shape[1] // self.blocks[-1].attn.num_heads
        return [slice(i, i + size) for i in range(0, rows.shape[1], size)]

    def weights(self, own: np.ndarray, bias: Callable[[int, int], float] = lambda i, j: 0.0) -> np.ndarray:
        """One head: [n, d] -> [n, n]."""
        count, size = own.shape
        out = np.zeros((count, count))
        for i in range(count):
            logits = np.array([own[i] @ own[j] / math.sqrt(size) + bias(i, j) for j in range(count)])
            out[i] = np.exp(logits - logits.max())
            out[i] /= out[i].sum()
        return out

    def attended(self, own: np.ndarray, v: np.ndarray, bias: Callable[[int, int], float] = lambda i, j: 0.0) -> Any:
        return np.concatenate([self.weights(own[:, p], bias) @ v[:, p] for p in self.heads(v)], axis=1)

    def output(self, mixed: np.ndarray) -> np.ndarray:
        last = self.blocks[-1]
        return self.run(last.ls_1, self.run(last.attn.out_proj, mixed))


def slow_value(s: Slow) -> np.ndarray:
    return s.output(s.qkv(s.blocks[-1], s.layers[-2])[2])[1:]


def slow_maskclip(s: Slow) -> np.ndarray:
    last = s.blocks[-1]
    y = s.layers[-2] + s.output(s.qkv(last, s.layers[-2])[2])
    return (y + s.run(last.ls_2, s.run(last.mlp, s.run(last.ln_2, y))))[1:]


def slow_clearclip(s: Slow) -> np.ndarray:
    q, _, v = s.qkv(s.blocks[-1], s.layers[-2])
    return s.output(s.attended(q, v))[1:]


def slow_naclip(s: Slow) -> np.ndarray:
    def gaussian(i: int, j: int) -> float:
        if not (i and j):
            return 0.0
        rows, cols = (i - 1) // GRID[1] - (j - 1) // GRID[1], (i - 1) % GRID[1] - (j - 1) % GRID[1]
        return math.exp(-(rows**2 + cols**2) / (2 * 1.5**2))

    _, k, v = s.qkv(s.blocks[-1], s.layers[-2])
    return s.output(s.attended(k, v, gaussian))[1:]


def slow_sclip(s: Slow) -> np.ndarray:
    q, k, v = s.qkv(s.blocks[-1], s.layers[-2])
    return s.output(s.attended(q, v) + s.attended(k, v))[1:]


def slow_kk_mean(s: Slow) -> np.ndarray:
    v = s.qkv(s.blocks[-1], s.layers[-2])[2]
    keys = [s.qkv(block, rows)[1] for block, rows in zip(s.blocks, s.layers, strict=False)]
    parts = [np.mean([s.weights(k[:, p]) for k in keys], axis=0) @ v[:, p] for p in s.heads(v)]
    return s.output(np.concatenate(parts, axis=1))[1:]


def slow_scclip(s: Slow) -> np.ndarray:
    depth, last = len(s.blocks), s.blocks[-1]
    factor = LocalOutlierFactor(n_neighbors=min(30, GRID[0] * GRID[1] - 1), contamination=0.05)
    wrong = factor.fit_predict(s.layers[depth - 1][1:]) < 0

    def layer(of_twelve: int) -> int:
        return min(max(round(of_twelve * depth / 12), 1), depth - 1)

    def mended(rows: np.ndarray) -> np.ndarray:
        out = rows.copy()
        for cell in np.flatnonzero(wrong):
            y, x = divmod(int(cell), GRID[1])
            near = [
                rows[a * GRID[1] + b]
                for a in range(max(y - 1, 0), min(y + 2, GRID[0]))
                for b in range(max(x - 1, 0), min(x + 2, GRID[1]))
                if not wrong[a * GRID[1] + b]
            ]
            if near:
                out[cell] = np.mean(near, axis=0)
        return out

    def cosine(rows: np.ndarray) -> np.ndarray:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit @ unit.T

    def pooled(by: np.ndarray, rows: np.ndarray) -> np.ndarray:
        kept = np.where(by < 0.4, 0, by)
        return kept @ rows / kept.sum(axis=1, keepdims=True)

    alike = cosine(mended(s.layers[layer(9)][1:]))
    logits = 3 * (alike - alike.mean())
    shared = np.where(logits < 0, 0, np.exp(logits))
    shared /= shared.sum(axis=1, keepdims=True)
    texture = cosine(s.layers[layer(4)][1:])

    def attention(rows: np.ndarray, cls: np.ndarray) -> np.ndarray:
        _, k, v = s.qkv(last, rows)
        mixed = np.concatenate([(shared + s.weights(k[:, p])) / 2 @ v[:, p] for p in s.heads(v)], axis=1)
        return pooled(texture, s.output(mixed) + 0.3 * cls)

    several = sum(s.layers[i] for i in range(layer(4), layer(10) + 1))
    entering = pooled(alike, mended(s.layers[depth - 1][1:]))
    return attention(entering, s.layers[depth - 1][0]) + attention(several[1:], several[0])


SLOW: dict[str, Callable[[Slow], np.ndarray]] = {
    "vanilla": lambda s: s.layers[-1][1:],
    "value": slow_value,
    "maskclip": slow_maskclip,
    "clearclip": slow_clearclip,
    "naclip": slow_naclip,
    "sclip": slow_sclip,
    "kk_mean": slow_kk_mean,
    "scclip": slow_scclip,
}


@pytest.mark.parametrize("tower", ["vit", "vit-average"])
@pytest.mark.parametrize("recipe", SLOW)
def test_recipes_agree_with_plain_loops_in_float64(folders: dict[str, str], tower: str, recipe: str) -> None:
    pixels = images(2)
    global_tokens, dense = teacher(folders[tower], recipe).encode_views(pixels)
    visual = open_clip.create_model(folders[tower], force_image_size=SIZE).eval().visual
    for image, got in zip(pixels, dense, strict=True):
        slow = Slow(visual, image)
        with torch.no_grad():
            wanted = slow.visual.ln_post(torch.from_numpy(SLOW[recipe](slow))) @ slow.visual.proj
        close(got, wanted.reshape(*GRID, D))
    close(global_tokens, teacher(folders[tower]).encode_views(pixels)[0], rtol=1e-5)


def test_every_recipe_has_a_name_in_the_settings_and_a_reference_here() -> None:
    assert {"auto", "feature_map", *RECIPES} == set(get_args(TeacherConfig.model_fields["recipe"].annotation))
    assert SLOW.keys() == RECIPES.keys()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_does_not_look_at_the_other_images_of_its_batch(folders: dict[str, str], recipe: str) -> None:
    ours, pixels = teacher(folders["vit"], recipe), images(4)
    pixels[1:] = pixels[1:] // 4  # one image unlike the others moves every statistic over a batch
    _, dense = ours.encode_views(pixels)
    for i in range(4):
        close(ours.encode_views(pixels[i : i + 1])[1][0], dense[i], rtol=2e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_tower_of_one_block_has_every_recipe(folders: dict[str, str], recipe: str) -> None:
    global_tokens, dense = teacher(folders["one-block"], recipe).encode_views(images(1))
    assert torch.isfinite(dense).all()
    close(global_tokens, teacher(folders["one-block"]).encode_views(images(1))[0], rtol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_image_of_one_colour_gives_finite_tokens(folders: dict[str, str], recipe: str) -> None:
    flat = torch.full((1, 3, SIZE, SIZE), 128, dtype=torch.uint8)
    assert torch.isfinite(teacher(folders["vit"], recipe).encode_views(flat)[1]).all()


@pytest.mark.parametrize("recipe", ["sclip", "scclip", "kk_mean"])
def test_in_bf16_a_recipe_stays_close_to_full_precision(folders: dict[str, str], recipe: str) -> None:
    full = teacher(folders["vit"], recipe).encode_views(images(2))[1]
    half = teacher(folders["vit"], recipe, precision="bf16").encode_views(images(2))[1]
    cosine = torch.nn.functional.cosine_similarity(full, half, dim=-1)
    assert half.dtype == torch.float32 and cosine.median() > 0.995


def test_the_neighbourhood_bias_by_hand() -> None:
    near, diagonal = math.exp(-1 / 8), math.exp(-2 / 8)
    wanted = [
        [0, 0, 0, 0, 0],
        [0, 1, near, near, diagonal],
        [0, near, 1, diagonal, near],
        [0, near, diagonal, 1, near],
        [0, diagonal, near, near, 1],
    ]
    torch.testing.assert_close(neighbourhood((2, 2), 2.0), torch.tensor(wanted))


def test_layers_of_twelve_scaled_to_other_depths() -> None:
    assert [scaled_layer(layer, 12) for layer in (4, 9, 10)] == [4, 9, 10]
    assert [scaled_layer(layer, 24) for layer in (4, 9, 10)] == [8, 18, 20]
    assert [scaled_layer(layer, 2) for layer in (4, 9, 10)] == [1, 1, 1]


def test_outlier_factors_are_those_of_scikit_learn() -> None:
    random = torch.Generator().manual_seed(2)
    tokens = torch.randn((2, 60, 8), generator=random) + 20
    tokens[0, 7] += 9
    factors, wrong = local_outlier_factor(tokens, 10), outliers(tokens)
    for image, got in zip(tokens, factors, strict=True):
        wanted = -LocalOutlierFactor(n_neighbors=10).fit(image.numpy()).negative_outlier_factor_
        torch.testing.assert_close(got.double(), torch.from_numpy(wanted).double(), rtol=1e-4, atol=1e-4)
    assert int(factors[0].argmax()) == 7 and wrong[0, 7]
    assert wrong.sum(dim=1).tolist() == [3, 3]  # 5 % of 60


def test_a_marked_token_becomes_the_mean_of_its_unmarked_neighbours() -> None:
    tokens = torch.arange(9.0).view(1, 9, 1)
    wrong = torch.zeros((1, 9), dtype=torch.bool)
    wrong[0, [0, 1]] = True
    assert repaired(tokens, wrong, (3, 3)).flatten().tolist() == [3.5, (2 + 3 + 4 + 5) / 4, 2, 3, 4, 5, 6, 7, 8]
    assert torch.equal(repaired(tokens, torch.ones((1, 9), dtype=torch.bool), (3, 3)), tokens)


def test_pooling_by_hand() -> None:
    affinity = torch.tensor([[[1.0, 0.5, 0.3], [0.5, 1.0, -1.0], [0.0, 0.0, 0.0]]])
    tokens = torch.tensor([[[3.0], [6.0], [9.0]]])
    got = pooled_by(affinity, tokens, 0.4)
    torch.testing.assert_close(got, torch.tensor([[[4.0], [5.0], [9.0]]]))


def test_the_calibrated_attention_ignores_what_is_below_the_mean() -> None:
    affinity = torch.tensor([[[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    got = calibrated_attention(affinity)
    above = math.exp(3 * 0.8) / (math.exp(3 * 0.8) + math.exp(3.0))
    wanted = torch.tensor([[[1 - above, above, 0.0], [above, 1 - above, 0.0], [0.0, 0.0, 1.0]]])
    torch.testing.assert_close(got, wanted)
    assert torch.isfinite(calibrated_attention(torch.ones(1, 3, 3))).all()


def test_the_folder_of_a_teacher_for_these_tests_is_left_as_it_was(folders: dict[str, str]) -> None:
    """Hooks that catch a layer are taken off again: nothing grows from call to call."""
    ours = teacher(folders["vit"], "kk_mean")
    ours.encode_views(images(1))
    assert not ours._views.visual.transformer.resblocks[0]._forward_pre_hooks
    assert Path(folders["vit"].removeprefix("local-dir:")).is_dir()


@pytest.mark.parametrize("recipe", ["vanilla", "scclip"])
def test_windows_are_averaged_where_they_overlap(folders: dict[str, str], recipe: str) -> None:
    name, pixels = folders["vit"], images(2)
    whole, ours = teacher(name, recipe), teacher(name, recipe, window=32, stride=16)
    alone = load_teacher(TeacherConfig(model=name, recipe=recipe, input_size=32))  # type: ignore[arg-type]
    global_tokens, dense = ours.encode_views(pixels)
    close(global_tokens, whole.encode_views(pixels)[0], rtol=1e-6)
    assert ours.grid == whole.grid == GRID
    parts: dict[tuple[int, int], list[Tensor]] = {}
    for y in (0, 16):
        for x in (0, 16):
            window = alone.encode_views(pixels[:, :, y : y + 32, x : x + 32])[1]
            for row, column in np.ndindex(4, 4):
                parts.setdefault((y // 8 + row, x // 8 + column), []).append(window[:, row, column])
    for (row, column), found in parts.items():
        close(dense[:, row, column], torch.stack(found).mean(dim=0), rtol=1e-5)
    assert ours.macs()[0] == whole.macs()[0] + 4 * alone.macs()[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": 64}, r"teacher\.window 64 is larger than the view of 48"),
        ({"window": 32, "stride": 12}, r"teacher\.stride 12 is no multiple of this teacher's cells of 8"),
        ({"window": 30}, "no multiple of the teacher's patch size"),
    ],
)
def test_windows_that_do_not_fit_are_refused(folders: dict[str, str], settings: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        teacher(folders["vit"], **settings)
