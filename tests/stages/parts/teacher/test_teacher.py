from __future__ import annotations

import importlib.util
import json
import pickle
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from cache.errors import InputError
from stages.parts.data.views import whole
from stages.parts.teacher.models import known_normalisation
from stages.parts.teacher.settings import TeacherConfig, teacher_identity
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.parts.teacher.towers import resized_positions

ROOT = Path(__file__).resolve().parents[4]
SHARED = ROOT / "../shared"
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit-average": {**VIT, "pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True, "ls_init_value": 0.3},
    "resnet": {"image_size": 64, "width": 4, "head_width": 16, "layers": [1, 1, 1, 1]},
    "trunk-map": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "image_size": 64},
    "trunk-norm": {"timm_model_name": "test_convnext", "timm_pool": "", "image_size": 64},
    "trunk-nhwc": {"timm_model_name": "test_mambaout", "timm_pool": "avg", "timm_proj": "none", "image_size": 64},
    "trunk-class-token": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160},
    "trunk-attention": {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
}
D = 24
TRUNK_DIMS = {"test_vit3": 96, "test_mambaout": 256}


def write_teacher(folder: Path, tower: dict[str, Any], **model_cfg: Any) -> str:
    """A tiny teacher with random weights as a local folder; returns its name for open_clip."""
    folder.mkdir(parents=True, exist_ok=True)
    dim = TRUNK_DIMS[tower["timm_model_name"]] if tower.get("timm_proj") == "none" else D
    text = {**TEXT, **model_cfg.pop("text", {})}
    config = {"embed_dim": dim, "vision_cfg": tower, "text_cfg": text, "custom_text": True, **model_cfg}
    whole_cfg = {"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole_cfg))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    for value in model.state_dict().values():
        if value.is_floating_point():  # so that nothing stays at an initial zero or one
            value.add_(0.03 * torch.randn_like(value).abs())
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: write_teacher(tmp_path_factory.mktemp("t") / name, tower) for name, tower in TOWERS.items()}


def teacher(name: str, **settings: Any) -> Teacher:
    return load_teacher(TeacherConfig(model=name, **settings))


def reference(name: str, **settings: Any) -> Any:
    """open_clip's own model of the same folder, loaded without us."""
    return open_clip.create_model(name, **settings).eval()


def images(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-4) -> None:
    assert got.shape == wanted.shape
    scale = float(wanted.abs().max())
    torch.testing.assert_close(got.double(), wanted.double(), rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("tower", TOWERS)
def test_the_global_token_is_encode_image(folders: dict[str, str], tower: str) -> None:
    ours = teacher(folders[tower])
    pixels = images(3, ours.input_size)
    with torch.no_grad():
        wanted = reference(folders[tower]).encode_image(normalised(pixels), normalize=False)
    global_tokens, dense = ours.encode_views(pixels)
    close(global_tokens, wanted)
    close(ours.encode_crops(pixels), wanted)
    assert dense.shape == (3, *ours.grid, ours.dim)
    assert torch.isfinite(dense).all() and dense.std(dim=(1, 2)).min() > 0


@pytest.mark.parametrize("tower", ["vit", "vit-average"])
def test_vanilla_dense_tokens_are_the_projection_of_open_clips_own_tokens(folders: dict[str, str], tower: str) -> None:
    visual = reference(folders[tower]).visual
    visual.output_tokens = True
    pixels = images(2, 32)
    with torch.no_grad():
        _, tokens = visual(normalised(pixels))
        if visual.final_ln_after_pool:  # open_clip normalises the pooled token alone then; we all of them
            tokens = visual.ln_post(tokens)
        wanted = (tokens @ visual.proj).reshape(2, 4, 4, D)
    close(teacher(folders[tower]).encode_views(pixels)[1], wanted)


def test_resnet_dense_tokens_are_the_value_path_of_each_position(folders: dict[str, str]) -> None:
    visual = reference(folders["resnet"]).visual
    pixels = images(2, 64)
    with torch.no_grad():
        maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(normalised(pixels))))))
        cells = [[visual.attnpool.c_proj(visual.attnpool.v_proj(maps[:, :, y, x])) for x in (0, 1)] for y in (0, 1)]
    wanted = torch.stack([torch.stack(row, dim=1) for row in cells], dim=1)
    close(teacher(folders["resnet"]).encode_views(pixels)[1], wanted)


@pytest.mark.parametrize("tower", ["trunk-map", "trunk-nhwc", "trunk-class-token", "trunk-attention"])
def test_trunk_dense_tokens_are_the_projection_of_the_cell_in_that_place(folders: dict[str, str], tower: str) -> None:
    visual, ours = reference(folders[tower]).visual, teacher(folders[tower])
    pixels, (h, w) = images(2, ours.input_size), ours.grid
    dense = ours.encode_views(pixels)[1]
    with torch.no_grad():
        features = visual.trunk.forward_features(normalised(pixels))
        for y in range(h):
            for x in range(w):
                if tower == "trunk-map":
                    wanted = visual.head.proj(features[:, :, y, x])
                elif tower == "trunk-nhwc":
                    wanted = visual.trunk.forward_head(features[:, y : y + 1, x : x + 1])
                elif tower == "trunk-class-token":
                    wanted = visual.head.proj(visual.trunk.fc_norm(features[:, 1 + y * w + x]))
                else:
                    wanted = visual.trunk.attn_pool(features[:, 1 + y * w + x][:, None])
                close(dense[:, y, x], wanted)


def test_with_average_pooling_the_dense_tokens_average_to_the_global_one(folders: dict[str, str]) -> None:
    ours = teacher(folders["trunk-map"], input_size=96)
    global_tokens, dense = ours.encode_views(images(2, 96))
    assert ours.grid == (3, 3)
    close(dense.mean(dim=(1, 2)), global_tokens)


@pytest.mark.parametrize("tower", TOWERS)
def test_batch_size_changes_nothing_beyond_float_error(folders: dict[str, str], tower: str) -> None:
    ours = teacher(folders[tower])
    pixels = images(5, ours.input_size)
    global_tokens, dense = ours.encode_views(pixels)
    for i in range(5):
        one_global, one_dense = ours.encode_views(pixels[i : i + 1])
        close(one_global[0], global_tokens[i], rtol=1e-5)
        close(one_dense[0], dense[i], rtol=1e-5)


@pytest.mark.parametrize(("tower", "size"), [("vit", 48), ("vit", 16), ("trunk-class-token", 192)])
def test_another_input_size_equals_open_clip_built_for_it(folders: dict[str, str], tower: str, size: int) -> None:
    ours = teacher(folders[tower], input_size=size)
    with torch.no_grad():
        wanted = reference(folders[tower], force_image_size=size).encode_image(normalised(images(2, size)))
    close(ours.encode_views(images(2, size))[0], wanted)
    native = teacher(folders[tower])
    pixels = images(2, native.input_size)
    close(ours.encode_crops(pixels), native.encode_views(pixels)[0], rtol=1e-6)  # crops stay native


def test_towers_of_two_sizes_share_their_weights(folders: dict[str, str]) -> None:
    ours = teacher(folders["vit"], input_size=64)
    views, crops = dict(ours._views.named_parameters()), dict(ours._crops.named_parameters())
    own = {name for name in crops if views[name] is not crops[name]}
    assert own == {"visual.positional_embedding"}


def test_positions_are_exact_at_native_size_and_a_smooth_field_otherwise() -> None:
    positions = torch.randn(17, 3)
    torch.testing.assert_close(resized_positions(positions, (4, 4)), positions, rtol=0, atol=1e-6)
    flat = torch.cat((torch.full((1, 3), 5.0), torch.full((16, 3), 2.0)))
    grown = resized_positions(flat, (6, 5))
    assert grown.shape == (31, 3)
    torch.testing.assert_close(grown[1:], torch.full((30, 3), 2.0))
    assert (grown[0] == 5).all()


def test_a_resnet_takes_other_sizes_with_positions_resized(folders: dict[str, str]) -> None:
    ours = teacher(folders["resnet"], input_size=128)
    assert ours.grid == (4, 4)
    assert ours._views.visual.attnpool.positional_embedding.shape[0] == 17
    assert torch.isfinite(ours.encode_views(images(1, 128))[0]).all()


def test_the_teacher_is_frozen_and_its_tokens_may_enter_a_graph(folders: dict[str, str]) -> None:
    ours = teacher(folders["vit"])
    assert not any(p.requires_grad for p in ours._views.parameters()) and not ours._views.training
    global_tokens, dense = ours.encode_views(images(2, 32))
    weight = torch.ones(D, requires_grad=True)
    ((global_tokens * weight).sum() + (dense * weight).sum()).backward()
    assert weight.grad is not None and torch.isfinite(weight.grad).all()


def test_patch_dropout_of_the_training_configuration_is_off(tmp_path: Path) -> None:
    ours = teacher(write_teacher(tmp_path / "drop", {**VIT, "patch_dropout": 0.5}))
    assert torch.equal(ours.encode_views(images(2, 32))[1], ours.encode_views(images(2, 32))[1])


def test_bf16_tokens_stay_close_to_fp32_and_come_as_float32(folders: dict[str, str]) -> None:
    full = teacher(folders["vit"], recipe="naclip").encode_views(images(4, 32))
    half = teacher(folders["vit"], recipe="naclip", precision="bf16").encode_views(images(4, 32))
    for a, b in zip(full, half, strict=True):
        assert b.dtype == torch.float32 and not torch.equal(a, b)
        assert F.cosine_similarity(a, b, dim=-1).min() > 0.999


def test_no_crop_gives_no_token(folders: dict[str, str]) -> None:
    assert teacher(folders["vit"]).encode_crops(torch.zeros((0, 3, 32, 32), dtype=torch.uint8)).shape == (0, D)


@pytest.mark.parametrize("pixels", [torch.zeros(1, 3, 32, 32), torch.zeros((1, 3, 40, 40), dtype=torch.uint8)])
def test_images_of_another_size_or_type_are_refused(folders: dict[str, str], pixels: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        teacher(folders["vit"]).encode_views(pixels)


def test_text_is_the_normalised_mean_of_normalised_prompts(folders: dict[str, str]) -> None:
    ours, theirs, names = teacher(folders["vit"]), reference(folders["vit"]), ["cat", "potted plant"]
    templates = ["a photo of a {}.", "{} in the scene", "many {}"]
    tokenizer = open_clip.get_tokenizer(folders["vit"])
    embeddings = ours.encode_text(names, templates)
    for name, embedding in zip(names, embeddings, strict=True):
        total = torch.zeros(D, dtype=torch.double)
        for template in templates:
            with torch.no_grad():
                single = theirs.encode_text(tokenizer([template.replace("{}", name)]))[0].double()
            total += single / single.norm()
        close(embedding, total / total.norm())
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_a_prompt_without_a_place_for_the_name_is_refused(folders: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"no {} for the class name"):
        teacher(folders["vit"]).encode_text(["cat"], ["a photo"])


def test_the_identity_names_the_weights_and_nothing_else(folders: dict[str, str], tmp_path: Path) -> None:
    other = tmp_path / "moved"
    moved = write_teacher(other, VIT)
    assert teacher_identity(TeacherConfig(model=moved)) == teacher_identity(TeacherConfig(model=folders["vit"]))
    weights = load_file(other / "open_clip_model.safetensors")
    weights["visual.proj"][0, 0] += 1
    save_file(weights, other / "open_clip_model.safetensors")
    assert teacher_identity(TeacherConfig(model=moved)) != teacher_identity(TeacherConfig(model=folders["vit"]))


def test_names_enter_the_identity_and_places_do_not(folders: dict[str, str], tmp_path: Path) -> None:
    named = TeacherConfig(model="ViT-B-32", pretrained="laion2b_s34b_b79k")
    assert teacher_identity(named) == {"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}
    assert teacher_identity(TeacherConfig(model="hf-hub:a/b")) == {"model": "hf-hub:a/b"}
    file = tmp_path / "w.bin"
    file.write_bytes(b"x")
    known = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    identity = teacher_identity(TeacherConfig(model="ViT-B-32", pretrained=str(file)))
    assert identity == {"model": "ViT-B-32", "pretrained": known, "normalisation": "of the model's tags"}
    local = TeacherConfig(model=folders["vit"])
    assert str(tmp_path.parent) not in json.dumps([teacher_identity(local), local.fingerprint_fields()])
    assert {"model", "pretrained", "text"}.isdisjoint(local.fingerprint_fields())


def test_settings_and_identity_need_neither_torch_nor_open_clip(folders: dict[str, str]) -> None:
    code = (
        "import sys; from stages.parts.teacher.settings import TeacherConfig, teacher_identity;"
        f"teacher_identity(TeacherConfig(model={folders['vit']!r}));"
        "assert not {'torch', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('the pickle ran')",)


def broken(folder: Path, how: str) -> str:
    name = write_teacher(folder, VIT)
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    if how == "no folder":
        return f"local-dir:{folder}/nowhere"
    if how == "no config":
        config.unlink()
    elif how == "config is no JSON":
        config.write_text("{")
    elif how == "config without model_cfg":
        config.write_text("[]")
    elif how == "no weights":
        weights.unlink()
    elif how == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "weights of another model":
        config.write_text(config.read_text().replace('"width": 32', '"width": 48'))
    elif how == "a pickle with code":
        weights.unlink()
        (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    return name


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no folder", "teacher folder not found"),
        ("no config", "no readable model_cfg"),
        ("config is no JSON", "no readable model_cfg"),
        ("config without model_cfg", "no readable model_cfg"),
        ("no weights", "without weights"),
        ("truncated weights", "can't be loaded"),
        ("weights of another model", "can't be loaded"),
        ("a pickle with code", "can't be loaded"),
    ],
)
def test_a_broken_teacher_folder_gives_one_line(tmp_path: Path, how: str, said: str) -> None:
    name = broken(tmp_path / "t", how)
    with pytest.raises(InputError, match=said) as caught:
        teacher(name)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "ViT-B-61"}, "nearest: ViT-B-16"),
        ({"model": "ViT-B-16", "pretrained": "nobody"}, "neither a file nor a tag.*laion2b"),
        ({"model": "ViT-B-16-quickgelu", "pretrained": "opanai"}, "nearest: openai"),
        ({"model": "ViT-B-16", "pretrained": ""}, "neither a file nor a tag"),
        ({"model": "ViT-B-16", "pretrained": "openai"}, "use model 'ViT-B-16-quickgelu'"),
        ({"model": "RN50", "pretrained": "openai"}, "use model 'RN50-quickgelu'"),
    ],
)
def test_unknown_models_and_the_wrong_activation_are_refused_before_any_download(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        load_teacher(TeacherConfig(**settings))


def test_a_local_openai_file_is_refused_under_a_model_without_quickgelu(tmp_path: Path) -> None:
    archive = tmp_path / "ViT-B-16.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ViT-B-16/code/__torch__.py", "")
    named = tmp_path / "openai" / "weights.safetensors"
    named.parent.mkdir()
    named.write_bytes(b"")
    for path in (archive, named):
        with pytest.raises(InputError, match="ViT-B-16-quickgelu"):
            load_teacher(TeacherConfig(model="ViT-B-16", pretrained=str(path)))
    with pytest.raises(InputError, match="carries code"):
        load_teacher(TeacherConfig(model="ViT-B-16-quickgelu", pretrained=str(archive)))


def test_an_openai_folder_must_say_quickgelu(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='set "quick_gelu": true'):
        teacher(write_teacher(tmp_path / "vit.openai", VIT))
    assert teacher(write_teacher(tmp_path / "right.openai", VIT, quick_gelu=True)).dim == D


def test_a_failed_download_gives_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(open_clip, "create_model", offline)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: socket.socket())
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(InputError, match=r"no route to host.*network") as caught:
        load_teacher(TeacherConfig(model="hf-hub:nobody/nothing"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["hf-hub:nobody/nothing", "ViT-B-16-SigLIP-i18n-256"])
def test_without_a_network_a_teacher_is_refused_at_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A name that no server can have (RFC 6761), reached without a proxy; whatever open_clip tries would be too late.
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("it began to fetch"))
    with pytest.raises(InputError, match=r"must be fetched, and hub\.invalid can't be reached.*local-dir:FOLDER"):
        load_teacher(TeacherConfig(model=model, pretrained="webli"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids it"):
        load_teacher(TeacherConfig(model=model, pretrained="webli"))


def test_weights_as_a_file_are_normalised_as_the_models_tags_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, file = write_teacher(tmp_path / "tiny-siglip", VIT), tmp_path / "tiny-siglip/open_clip_model.safetensors"
    config = json.loads((tmp_path / "tiny-siglip/open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny-siglip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-siglip.json")
    tags = {"a": {"mean": MEAN, "std": STD}, "b": {"mean": MEAN, "std": STD}}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: list(tags))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _, tag: tags.get(tag, {}))
    cfg = TeacherConfig(model="tiny-siglip", pretrained=str(file))
    found, folder = load_teacher(cfg), teacher(name)
    assert found.normalisation == {"mean": tuple(MEAN), "std": tuple(STD)}
    pixels = images(2, 32)
    torch.testing.assert_close(found.encode_views(pixels), folder.encode_views(pixels), rtol=0, atol=0)
    # Tokens of 0.1 were taken under another normalisation: they must not be found again.
    assert teacher_identity(cfg)["normalisation"]
    tags["b"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(InputError, match=r"tags don't agree on it \(a has mean .*; b has mean .*preprocess_cfg"):
        load_teacher(cfg)


def test_what_open_clips_own_tags_agree_on() -> None:
    assert known_normalisation("ViT-B-16-SigLIP")["mean"] == (0.5, 0.5, 0.5)
    assert known_normalisation("ViT-B-16-quickgelu")["mean"] == (0.48145466, 0.4578275, 0.40821073)
    assert known_normalisation("MobileCLIP-S1") == {"mean": (0, 0, 0), "std": (1, 1, 1)}
    for name in ("ViT-L-14", "ViT-S-16"):
        with pytest.raises(InputError, match="don't agree on it"):
            known_normalisation(name)


@pytest.mark.parametrize("config", [None, {}, {"mean": [0.5] * 3}, {"mean": [0.5] * 3, "std": 0.5}, {"mean": "x"}])
def test_a_folder_that_does_not_say_its_normalisation_is_refused(tmp_path: Path, config: Any) -> None:
    name = write_teacher(tmp_path / "t", VIT)
    path = tmp_path / "t/open_clip_config.json"
    whole_cfg = json.loads(path.read_text()) | {"preprocess_cfg": config}
    path.write_text(json.dumps(whole_cfg))
    with pytest.raises(InputError, match=r"open_clip_config\.json: preprocess_cfg(\.| has no )(mean|std)"):
        teacher(name)


def test_damaged_weights_are_named_at_once(tmp_path: Path) -> None:
    name = write_teacher(tmp_path / "t", VIT)
    file = tmp_path / "t/open_clip_model.safetensors"
    weights = load_file(file)
    weights["visual.transformer.resblocks.1.mlp.c_fc.bias"][3] = float("nan")
    save_file(weights, file)
    with pytest.raises(InputError, match=r"damaged: visual\.transformer\.resblocks\.1\.mlp\.c_fc\.bias holds NaN"):
        teacher(name)


def test_a_tokenizer_that_lacks_its_package_or_files_says_what_to_install(tmp_path: Path) -> None:
    if importlib.util.find_spec("transformers"):
        pytest.skip("transformers is installed")
    name = write_teacher(tmp_path / "t", VIT)
    path = tmp_path / "t/open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "x/y"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"pip install 'clip2seg\[tokenizers\]'.*teacher\.text takes ready text"):
        teacher(name).encode_text(["cat"], ["{}"])


@pytest.mark.parametrize(
    ("tower", "settings", "said"),
    [
        ("vit", {"recipe": "feature_map"}, "use auto, vanilla"),
        ("resnet", {"recipe": "naclip"}, "use auto, feature_map"),
        ("trunk-map", {"recipe": "vanilla"}, "use auto, feature_map"),
        ("vit", {"input_size": 44}, "no multiple of the teacher's patch size 8"),
        ("resnet", {"crop_size": 50}, "no multiple of the teacher's stride 32"),
    ],
)
def test_settings_that_a_tower_cannot_serve_are_refused(
    folders: dict[str, str], tower: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        teacher(folders[tower], **settings)


@pytest.mark.parametrize(
    ("tower", "recipe", "said"),
    [
        ({**VIT, "attentional_pool": True, "attn_pooler_heads": 2}, "auto", "pools its tokens by attention"),
        ({**VIT, "image_size": [32, 48]}, "auto", "only square inputs"),
        ({**VIT, "qk_norm": True}, "clearclip", "use vanilla"),
    ],
)
def test_towers_without_usable_dense_tokens_are_refused(
    tmp_path: Path, tower: dict[str, Any], recipe: Any, said: str
) -> None:
    name = write_teacher(tmp_path / "t", tower)
    with pytest.raises(InputError, match=said):
        teacher(name, recipe=recipe)


def test_the_stand_in_teacher_names_real_photos(folders: dict[str, str]) -> None:
    root, path = SHARED / "data/voc12_partial", SHARED / "teachers/photo-mini-clip"
    if not root.is_dir() or not path.is_dir():
        pytest.skip("../shared (photos and teacher) is not here")
    ours = teacher(f"local-dir:{path}")
    names = json.loads((SHARED / "facts/zero_shot_splits.json").read_text())["voc12"]["classes"]
    ids = (root / "ImageSets/val.txt").read_text().split()[::11][:40]
    right = 0
    text = ours.encode_text(names, ["a photo of a {}"])
    for image_id in ids:
        pixels = whole(np.asarray(Image.open(root / f"JPEGImages/{image_id}.jpg").convert("RGB")), ours.input_size)
        tags = set(np.unique(np.asarray(Image.open(root / f"SegmentationClassAug/{image_id}.png")))) - {0, 255}
        global_token, _ = ours.encode_views(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        right += int((global_token @ text.T).argmax()) + 1 in tags
    assert ours.grid == (14, 14) and ours.dim == 512
    assert right / len(ids) >= 0.75  # its README: 0.89 over all 445
