from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from cache.errors import InputError
from stages.parts.students import LoadReport, StudentConfig, build_student, load_encoder_weights

FACTS = Path(__file__).resolve().parents[3] / "facts"
SHARED_WEIGHTS = Path(__file__).resolve().parents[4] / "../shared/weights/mobilenet_v2_imagenet.safetensors"


def facts(name: str) -> dict[str, torch.Tensor]:
    """A checkpoint's names and shapes, each tensor filled with a number of its own."""
    table = json.loads((FACTS / f"{name}.json").read_text())
    return {k: torch.full(shape, i if not shape else 1e-3 * i) for i, (k, shape) in enumerate(table.items())}


def student(arch: str, encoder: str, seed: int = 0):
    torch.manual_seed(seed)
    return build_student(StudentConfig(arch=arch, encoder=encoder), 8)


def loaded(model, tensors, tmp_path: Path, name: str = "w.pth") -> LoadReport:
    (save_file if name.endswith("safetensors") else torch.save)(tensors, tmp_path / name)
    return load_encoder_weights(model.encoder, tmp_path / name)


def same(model, tensors) -> bool:
    own = model.encoder.state_dict()
    return all(torch.equal(own[k], v) for k, v in tensors.items())


def test_the_public_mscan_b_loads_whole(tmp_path):
    model, tensors = student("segnext", "mscan_b"), facts("mscan_b")
    report = loaded(model, {"state_dict": {**tensors, "head.weight": torch.zeros(10, 512)}, "meta": {}}, tmp_path)
    assert same(model, tensors)
    assert (report.loaded, report.missing, report.unexpected) == (len(tensors), (), ("head.weight",))


def test_the_authors_mit_b4_loads_whole(tmp_path):
    model, tensors = student("segformer", "mit_b4"), facts("mit_b4")
    report = loaded(model, tensors, tmp_path)
    assert report.missing == () and report.unexpected == ("head.weight", "head.bias")
    assert report.loaded == len(model.encoder.state_dict()) == len(tensors) - 2
    assert same(model, {k: v for k, v in tensors.items() if not k.startswith("head")})


def test_the_public_vit_b16_loads_whole_with_its_positions_interpolated_to_512_pixels(tmp_path):
    model, tensors = student("setr", "vit_b16"), facts("vit_b16_224")
    tensors["pos_embed"].normal_()
    report = loaded(model, {"model": tensors}, tmp_path)
    positions = tensors.pop("pos_embed")
    assert report.resized == ("pos_embed",) and report.missing == ()
    assert same(model, {k: v for k, v in tensors.items() if not k.startswith("head")})
    grid = positions[0, 1:].T.reshape(1, 768, 14, 14)
    expected = torch.nn.functional.interpolate(grid, size=(32, 32), mode="bicubic", align_corners=False)
    own = model.encoder.pos_embed.detach()
    torch.testing.assert_close(own[0, 1:].T.reshape(1, 768, 32, 32), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(own[:, 0], positions[:, 0])


def test_the_real_torchvision_mobilenet_loads_as_it_is():
    if not SHARED_WEIGHTS.exists():
        pytest.skip(f"needs {SHARED_WEIGHTS.resolve()}")
    model = build_student(StudentConfig(arch="fpn", encoder="mobilenet_v2"), 8)
    report = load_encoder_weights(model.encoder, SHARED_WEIGHTS)
    assert set(report.unexpected) == {"classifier.1.weight", "classifier.1.bias"}
    assert report.missing == ()
    assert model.encoder.features[0][1].running_var.std() > 0  # trained statistics, not ones


def test_mmsegs_mit_loads_to_the_authors_values(tmp_path):
    """mmseg's names and layouts made from an encoder by the rules of its own mit2mmseg converter."""
    donor = student("segformer", "mit_b0", seed=1)
    own, mmseg = donor.encoder.state_dict(), {}
    for name, tensor in own.items():
        head, _, rest = name.partition(".")
        stage = int(head[-1]) - 1
        if head.startswith("patch_embed"):
            mmseg[f"layers.{stage}.0.{rest.replace('proj.', 'projection.')}"] = tensor
        elif head.startswith("norm"):
            mmseg[f"layers.{stage}.2.{rest}"] = tensor
        elif ".attn.q." in name:
            joint = torch.cat([tensor, own[name.replace(".q.", ".kv.")]])
            mmseg[f"layers.{stage}.1.{rest}".replace(".attn.q.", ".attn.attn.in_proj_")] = joint
        elif ".attn.kv." not in name:
            new = f"layers.{stage}.1.{rest}".replace(".attn.proj.", ".attn.attn.out_proj.")
            for ours, theirs in (("fc1", "0"), ("dwconv.dwconv", "1"), ("fc2", "4")):
                new = new.replace(f".mlp.{ours}.", f".ffn.layers.{theirs}.")
            linear = ".mlp.fc" in name and name.endswith("weight")
            mmseg[new] = tensor[:, :, None, None] if linear else tensor
    model = student("segformer", "mit_b0", seed=2)
    extra = {"decode_head.conv_seg.weight": torch.zeros(3)}
    report = loaded(model, {"state_dict": {**{f"backbone.{k}": v for k, v in mmseg.items()}, **extra}}, tmp_path)
    assert same(model, own)
    assert report.unexpected == ("decode_head.conv_seg.weight",)


@pytest.mark.parametrize("with_norm", [True, False])
def test_mmsegs_vit_loads_with_and_without_its_last_norm(tmp_path, with_norm):
    own = student("setr", "vit_ti16", seed=1).encoder.state_dict()
    mmseg = {}
    for name, tensor in own.items():
        name = name.replace("blocks.", "layers.").replace("patch_embed.proj.", "patch_embed.projection.")
        name = name.replace(".norm", ".ln").replace("norm.", "ln1.").replace("attn.qkv.", "attn.attn.in_proj_")
        name = name.replace("attn.proj.", "attn.attn.out_proj.")
        mmseg[name.replace("mlp.fc1.", "ffn.layers.0.0.").replace("mlp.fc2.", "ffn.layers.1.")] = tensor
    if not with_norm:
        del mmseg["ln1.weight"], mmseg["ln1.bias"]
    model = student("setr", "vit_ti16", seed=2)
    report = loaded(model, mmseg, tmp_path)
    assert same(model, {k: v for k, v in own.items() if with_norm or not k.startswith("norm.")})
    assert report.missing == (() if with_norm else ("norm.weight", "norm.bias"))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto"])
def test_timm_classifiers_load_into_timm_encoders(tmp_path, name):
    torch.manual_seed(1)
    donor = timm.create_model(name, pretrained=False)
    model = student("fpn", f"tu-{name}", seed=2)
    report = loaded(model, donor.state_dict(), tmp_path, "w.safetensors")
    assert report.missing == ()
    assert all(k.split(".")[0] in ("conv_head", "norm_head", "classifier", "head") for k in report.unexpected)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = model.eval().encoder(images)[-1]
        theirs = donor.eval().forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(ours, theirs)


def test_an_encoder_loads_from_our_own_trained_student(tmp_path):
    donor, model = student("segnext", "mscan_t", seed=1), student("unet", "mscan_t", seed=2)
    report = loaded(model, donor.state_dict(), tmp_path, "w.safetensors")
    assert same(model, donor.encoder.state_dict())
    assert all(name.startswith("decode_head.") for name in report.unexpected)


def test_loading_leaves_the_head_alone(tmp_path):
    model = student("segnext", "mscan_t", seed=2)
    before = [p.clone() for p in model.net.decode_head.parameters()]
    loaded(model, student("segnext", "mscan_t", seed=1).encoder.state_dict(), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, model.net.decode_head.parameters(), strict=True))


def test_a_report_says_what_was_left_out(tmp_path):
    tensors = {**student("fpn", "mscan_t").encoder.state_dict(), "head.weight": torch.zeros(1)}
    text = str(loaded(student("fpn", "mscan_t"), tensors, tmp_path))
    assert "left out 1: head.weight" in text and f"{len(tensors) - 1} tensors loaded" in text


def _broken(tensors, what):
    if what == "missing":
        del tensors["block2.0.mlp.fc1.weight"]
        return "block2.0.mlp.fc1.weight"
    if what == "unknown":
        tensors["block9.0.weight"] = torch.zeros(1)
        return "block9.0.weight"
    tensors["norm3.weight"] = torch.zeros(7)
    return "norm3.weight [7]"


@pytest.mark.parametrize("what", ["missing", "unknown", "shape"])
def test_anything_but_the_head_differing_is_an_error_that_names_it_and_changes_nothing(tmp_path, what):
    tensors = student("fpn", "mscan_t", seed=1).encoder.state_dict()
    culprit = _broken(tensors, what)
    model = student("fpn", "mscan_t", seed=2)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    with pytest.raises(InputError) as caught:
        loaded(model, tensors, tmp_path)
    assert culprit in str(caught.value) and "w.pth" in str(caught.value) and "\n" not in str(caught.value)
    assert same(model, before)


def test_old_files_without_batch_counters_load(tmp_path):
    tensors = student("fpn", "mscan_t", seed=1).encoder.state_dict()
    report = loaded(student("fpn", "mscan_t"), {k: v for k, v in tensors.items() if "num_batches" not in k}, tmp_path)
    assert report.missing and all(k.endswith("num_batches_tracked") for k in report.missing)


def test_the_weights_of_another_encoder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"doesn't fit.*missing.*not in the encoder"):
        loaded(student("fpn", "mscan_t"), student("fpn", "mit_b0").encoder.state_dict(), tmp_path)


def test_a_position_table_that_is_no_square_grid_is_refused(tmp_path):
    tensors = student("setr", "vit_ti16").encoder.state_dict()
    tensors["pos_embed"] = torch.zeros(1, 198, 192)
    with pytest.raises(InputError, match="pos_embed"):
        loaded(student("setr", "vit_ti16"), tensors, tmp_path)


class _Bomb:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("writer", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, writer):
    target, path = tmp_path / "was-here", tmp_path / "evil.pth"
    writer({"state_dict": _Bomb(target)}, path)
    with pytest.raises(InputError, match=r"evil\.pth: refused"):
        load_encoder_weights(student("fpn", "mscan_t").encoder, path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.npz", b"x", "not a known kind"),
        ("w.safetensors", b"garbage", "not a readable"),
        ("w.pth", b"", "w.pth"),
        ("w.pth", b"garbage", "w.pth"),
        ("gone.pth", None, "can't be read"),
        ("gone.safetensors", None, "can't be read"),
    ],
)
def test_an_unreadable_file_is_named_in_one_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_encoder_weights(student("fpn", "mscan_t").encoder, tmp_path / name)
    assert words in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_without_a_table_of_tensors_is_refused(tmp_path):
    with pytest.raises(InputError, match="no table of tensors"):
        loaded(student("fpn", "mscan_t"), {"epoch": 3}, tmp_path)
