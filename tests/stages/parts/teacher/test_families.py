"""Every family of image towers that docs/teachers.md lists, with random weights, from a local folder, at two sizes.

The towers are open_clip's own configurations; where a native one has many blocks it keeps three. An image tower comes
with a tiny text tower and a text tower with a tiny image tower, which changes no code that runs here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from cache.errors import InputError
from stages.parts.teacher.settings import TeacherConfig
from stages.parts.teacher.teacher import load_teacher, load_text_tower

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}

FAMILIES: dict[str, tuple[str, int, int]] = {
    "OpenAI ViT-B/32": ("ViT-B-32-quickgelu", 224, 7),
    "OpenAI, DFN, MetaCLIP ViT-B/16": ("ViT-B-16-quickgelu", 224, 14),
    "OpenAI ViT-L/14": ("ViT-L-14-quickgelu", 224, 16),
    "OpenAI RN50": ("RN50-quickgelu", 224, 7),
    "SigLIP, SigLIP 2": ("ViT-B-16-SigLIP2", 224, 14),
    "EVA-02": ("EVA02-B-16", 224, 14),
    "MobileCLIP, MobileCLIP2 (FastViT)": ("MobileCLIP2-S0", 256, 8),
    "MobileCLIP-B (ViT)": ("MobileCLIP-B", 224, 14),
    "ConvNeXt": ("convnext_base", 224, 7),
    "PE-Core": ("PE-Core-T-16-384", 384, 24),
}
"""Family -> open_clip's name of one of it, native size [pixels], side of its token grid."""

TEXTS = [
    "ViT-B-32-quickgelu",
    "ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP2",
    "EVA02-B-16",
    "MobileCLIP2-S0",
    "PE-Core-T-16-384",
]
"""open_clip's names of models whose text sides differ: tokenizer, length, mask, pooling."""


def local(name: str, folder: Path) -> str:
    """A random model of that image tower in a folder, as `local-dir:` wants it."""
    config = dict(open_clip.get_model_config(name))
    vision = dict(config["vision_cfg"])
    if isinstance(vision.get("layers"), int):
        vision["layers"] = 3
    return written(config | {"vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}, folder)


def written(config: dict[str, Any], folder: Path) -> str:
    """A random model of a configuration in a folder."""
    for own in ("multimodal_cfg", "init_logit_scale", "init_logit_bias"):
        config.pop(own, None)
    folder.mkdir(exist_ok=True)
    whole = {"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False, load_weights=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_tokens_at_its_native_size_and_at_another(family: str, tmp_path: Path) -> None:
    name, native, side = FAMILIES[family]
    folder, cell = local(name, tmp_path / "t"), native // side
    other = native + 2 * cell
    images = torch.randint(0, 256, (1, 3, other, other), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ours = load_teacher(TeacherConfig(model=folder, input_size=other))
    assert (ours.grid, ours.crop_size) == ((side + 2, side + 2), native)
    global_token, dense = ours.encode_views(images)
    crops = ours.encode_crops(images[:, :, :native, :native])
    reference: Any = open_clip.create_model(folder).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        wanted = reference.encode_image((images[:, :, :native, :native].float() / 255 - mean) / std)
    torch.testing.assert_close(crops, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert dense.shape == (1, side + 2, side + 2, ours.dim) and global_token.shape == (1, ours.dim)
    assert dense.isfinite().all() and global_token.isfinite().all() and dense.flatten(1, 2).std(dim=1).min() > 0
    assert ours.encode_text(["cat"], ["{}"]).shape == (1, ours.dim)


def test_coca_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pools its tokens by attention"):
        load_teacher(TeacherConfig(model=local("coca_ViT-B-32", tmp_path / "t")))


def sentence_pieces(folder: Path) -> int:
    """Writes a small tokenizer of SigLIP's kind, trained on a few words; returns how many pieces it has."""
    tokenizers: Any = pytest.importorskip("tokenizers", reason="needs `pip install 'clip2seg[tokenizers]'`")
    pytest.importorskip("transformers", reason="needs `pip install 'clip2seg[tokenizers]'`")
    pieces = tokenizers.Tokenizer(tokenizers.models.Unigram())
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = tokenizers.trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>")
    pieces.train_from_iterator(["a photo of a cat", "a brick wall", "grass and sand", "mushrooms"] * 5, trainer)
    pieces.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir()
    pieces.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    said |= {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return int(pieces.get_vocab_size())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TEXTS)
def test_a_familys_own_text_tower_and_tokenizer_give_open_clips_embeddings(name: str, tmp_path: Path) -> None:
    config, folder = dict(open_clip.get_model_config(name)), tmp_path / "t"
    text = dict(config["text_cfg"]) | {"layers": 1}
    if "hf_tokenizer_name" in text:
        text["vocab_size"] = sentence_pieces(folder)
    vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 32}
    model = written(config | {"text_cfg": text, "vision_cfg": vision}, folder)
    names, templates = ["Cat", "brick wall"], ["a photo of a {}.", "{}"]
    ours = load_text_tower(TeacherConfig(model=model)).encode(names, templates)
    reference: Any = open_clip.create_model(model).eval()
    tokens = open_clip.get_tokenizer(model)([t.replace("{}", n) for n in names for t in templates])
    assert tokens.shape == (4, text["context_length"]) and (tokens[0] != tokens[1]).any()
    with torch.no_grad():
        each = torch.nn.functional.normalize(reference.encode_text(tokens), dim=-1).view(2, 2, -1).mean(dim=1)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(each, dim=-1))
