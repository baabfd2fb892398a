"""Malformed inputs over every command: name -> (exit code, what spoils the world and the commands to run then)."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors.torch import save

from tests.pipeline.bad_input import REFUSED, REPORTS, WORKS, Bomb, Made, World, bomb_png, coloured, grey, shape_of

NESTED = "[" * 100_000
"""Brackets that never close: parsers that call themselves run out of stack."""

CASES: dict[str, tuple[int, Callable[[World], Made | Sequence[Made]]]] = {
    # -- photos -----------------------------------------------------------------------------------------------
    "photo: zero bytes": (REFUSED, lambda w: w.write(w.photo, b"").stage("extract")),
    "photo: cut in half": (REFUSED, lambda w: w.truncated(w.photo).stage("extract")),
    "photo: text": (REFUSED, lambda w: w.write(w.photo, "not a photo").stage("extract")),
    "photo: 3.6 gigapixels in 57 bytes": (REFUSED, lambda w: w.write(w.photo, bomb_png()).stage("extract")),
    "photo: larger than max_pixels": (REFUSED, lambda w: w.stage("extract", "--set", "data.max_pixels=100")),
    "photo: missing": (REFUSED, lambda w: w.gone(w.photo).stage("extract")),
    "photo: a link out of the folder": (REFUSED, lambda w: w.linked_out(w.photo).stage("extract")),
    "photo: floating point": (
        REFUSED, lambda w: w.image(grey(w, "float32"), w.photo, format="TIFF").stage("extract")),
    "photo: 16 bits": (WORKS, lambda w: w.image(grey(w, "uint16"), w.photo, format="PNG").pipeline()),
    "photo: grey": (WORKS, lambda w: w.image(grey(w), w.photo).pipeline()),
    "photo: a palette": (WORKS, lambda w: w.photo_as("P", format="PNG").pipeline()),
    "photo: CMYK": (WORKS, lambda w: w.photo_as("CMYK", format="JPEG").pipeline()),
    "photo: lying on its side, EXIF turns it to its mask": (WORKS, lambda w: w.turned(6).pipeline()),
    "photo: lying on its side, and EXIF says it stands": (REFUSED, lambda w: w.turned(1).stage("extract")),
    "photo: all smaller than the crop": (WORKS, lambda w: w.all_cropped(30, 20).pipeline()),
    "photo: zero bytes, on the evaluation list": (
        REFUSED, lambda w: w.write(w.val_photo, b"").stage("eval", fresh=False)),
    "photo: its folder is a file": (
        REFUSED, lambda w: w.gone(w.photo.parent).write(w.photo.parent, "x").stage("extract")),
    "photo: another size than its mask": (
        REFUSED, lambda w: w.image(np.zeros((9, 9, 3), np.uint8), w.photo).stage("extract")),
    "photo: one pixel": (
        WORKS, lambda w: w.image(np.zeros((1, 1, 3), np.uint8), w.photo).image(
            np.ones((1, 1), np.uint8), w.mask).pipeline()),
    "photo: bad, but one is allowed": (
        WORKS, lambda w: w.write(w.photo, b"").stage("extract", "--set", "data.max_bad=1")),
    # -- masks ------------------------------------------------------------------------------------------------
    "mask: zero bytes": (REFUSED, lambda w: w.write(w.mask, b"").stage("extract")),
    "mask: cut in half": (REFUSED, lambda w: w.truncated(w.mask).stage("extract")),
    "mask: colours": (
        REFUSED, lambda w: w.image(coloured(*shape_of(w.photo)), w.mask).stage("extract")),
    "mask: another size": (REFUSED, lambda w: w.image(np.ones((5, 5), np.uint8), w.mask).stage("extract")),
    "mask: a value outside the list": (REFUSED, lambda w: w.image(grey(w), w.mask).stage("extract")),
    "mask: 16 bits and outside": (
        REFUSED, lambda w: w.image(grey(w, "uint16") * 500, w.mask).stage("extract")),
    "mask: missing": (REFUSED, lambda w: w.gone(w.mask).stage("extract")),
    "mask: a link out of the folder": (REFUSED, lambda w: w.linked_out(w.mask).stage("extract")),
    "mask: nothing labelled": (WORKS, lambda w: w.image(grey(w) * 0 + 255, w.mask).pipeline()),
    "mask: no cell unannotated": (WORKS, lambda w: w.image(grey(w) * 0 + 1, w.mask).pipeline()),
    "mask: no cell unannotated in any image": (WORKS, lambda w: w.masks(-1, 1, "train*").pipeline()),
    "mask: a seen class without a pixel": (WORKS, lambda w: w.masks(3, 0).pipeline()),
    "mask: an unseen class without a pixel": (WORKS, lambda w: w.masks(2, 0).pipeline()),
    "mask: nothing labelled in any image": (WORKS, lambda w: w.masks(-1, 255, "train*").pipeline()),
    "mask: nothing labelled in any evaluation image": (WORKS, lambda w: w.masks(-1, 255, "val*").pipeline()),
    "mask: a bomb": (REFUSED, lambda w: w.write(w.mask, bomb_png()).stage("extract")),
    # -- lists ------------------------------------------------------------------------------------------------
    "list: empty": (REFUSED, lambda w: w.listed("").planned()),
    "list: missing": (REFUSED, lambda w: w.gone(w.list).planned()),
    "list: an id twice": (REFUSED, lambda w: w.listed("train00\ntrain00\n").planned()),
    "list: a path upwards": (REFUSED, lambda w: w.listed("../../etc/passwd\n").planned()),
    "list: an absolute path": (REFUSED, lambda w: w.listed("/etc/passwd\n").planned()),
    "list: bytes that are no text": (REFUSED, lambda w: w.listed(b"\xff\xfe\x00\x80").planned()),
    "list: a zero byte": (REFUSED, lambda w: w.listed(b"train\x0000\n").planned()),
    "list: names a file that isn't there": (REFUSED, lambda w: w.listed("train00\nnone\n").planned()),
    "list: Windows line ends and a mark": (
        WORKS, lambda w: w.listed(b"\xef\xbb\xbftrain00\r\ntrain01\r\n").planned()),
    "list: its name is a path": (REFUSED, lambda w: w.planned("--set", "data.train=../x")),
    # -- vocabularies -----------------------------------------------------------------------------------------
    "classes: unknown unseen name": (
        REFUSED, lambda w: w.replaced(w.words, 'unseen = ["box"', 'unseen = ["bux"').planned()),
    "classes: HTML": (REFUSED, lambda w: w.replaced(w.words, "disc", "<script>").planned()),
    "classes: a path": (REFUSED, lambda w: w.replaced(w.words, "disc", "../disc").planned()),
    "classes: a name twice": (REFUSED, lambda w: w.replaced(w.words, "disc", "box").planned()),
    "classes: fewer values": (REFUSED, lambda w: w.replaced(w.words, "[1, 2, 3, 4]", "[1, 2]").planned()),
    "classes: a value below zero": (
        REFUSED, lambda w: w.replaced(w.words, "[1, 2, 3, 4]", "[-1, 2, 3, 4]").planned()),
    "classes: a value that is ignored": (
        REFUSED, lambda w: w.replaced(w.words, "[1, 2, 3, 4]", "[0, 2, 3, 4]").planned()),
    "classes: all unseen": (
        REFUSED, lambda w: w.replaced(w.words, '["box", "cross"]',
                                      '["box", "cross", "disc", "stripes"]').planned()),
    "classes: 300": (
        REFUSED, lambda w: w.write(w.words, f"classes = {json.dumps([f'c{i}' for i in range(300)])}\n").planned()),
    "classes: not TOML": (REFUSED, lambda w: w.write(w.words, "classes = [").planned()),
    "classes: nested without end": (REFUSED, lambda w: w.write(w.words, "a = " + "[" * 5000).planned()),
    "classes: dollar signs, which pictures could take for a formula": (
        WORKS, lambda w: [*w.replaced(w.words, "disc", "$x^_$").pipeline(), w.ask("image", "train00", fresh=True)]),
    "classes: words of many scripts": (WORKS, lambda w: w.replaced(w.words, "disc", "羊 вівця 🐑").pipeline()),
    "classes: another split": (REFUSED, lambda w: w.planned("--set", "data.split=mine")),
    # -- presets ----------------------------------------------------------------------------------------------
    "preset: not TOML": (REFUSED, lambda w: w.write(w.preset, "[data").planned()),
    "preset: bytes that are no text": (REFUSED, lambda w: w.write(w.preset, b"\xff\xfe\x01").planned()),
    "preset: nested without end": (REFUSED, lambda w: w.write(w.preset, f"a = {NESTED}").planned()),
    "preset: a name that is only dots": (
        REFUSED, lambda w: ("plan", str(w.write(w.root / "..toml", w.preset.read_text()).root / "..toml"))),
    "preset: no such file": (REFUSED, lambda w: w.gone(w.preset).planned()),
    "preset: a folder": (REFUSED, lambda w: w.gone(w.preset).folder(w.preset).planned()),
    "preset: empty": (REFUSED, lambda w: w.write(w.preset, "").planned()),
    "preset: unknown table": (REFUSED, lambda w: w.write(w.preset, "[nonsense]\na = 1\n").planned()),
    "preset: unknown key": (REFUSED, lambda w: w.replaced(w.preset, "batch = 4", "bach = 4").planned()),
    "preset: text for a number": (REFUSED, lambda w: w.replaced(w.preset, "size = 64", 'size = "64"').planned()),
    "preset: no learning rate": (REFUSED, lambda w: w.replaced(w.preset, "lr = 1e-3", "lr = 0.0").planned()),
    "preset: an infinite learning rate": (
        REFUSED, lambda w: w.replaced(w.preset, "lr = 1e-3", "lr = inf").planned()),
    "preset: a date": (REFUSED, lambda w: w.replaced(w.preset, "batch = 4", "batch = 2024-01-01").planned()),
    "preset: a table that is a number": (
        REFUSED, lambda w: w.write(w.preset, "data = 3\n").planned()),
    "preset: extends itself": (REFUSED, lambda w: w.write(w.preset, 'extends = "./tiny.toml"\n').planned()),
    "preset: extends nothing": (REFUSED, lambda w: w.write(w.preset, 'extends = "none"\n').planned()),
    "preset: extends a number": (REFUSED, lambda w: w.write(w.preset, "extends = 3\n").planned()),
    "preset: its data is no folder": (REFUSED, lambda w: w.gone(w.data).planned()),
    "preset: unknown student": (
        REFUSED, lambda w: w.stage("train", "--set", "student.arch=fpm", fresh=False)),
    "preset: unknown encoder": (
        REFUSED, lambda w: w.stage("train", "--set", "student.encoder=resnet51", fresh=False)),
    "preset: student weights that aren't there": (
        REFUSED, lambda w: w.stage("train", "--set", "student.weights=./none.safetensors", fresh=False)),
    # -- student files ----------------------------------------------------------------------------------------
    "student: zero bytes": (REFUSED, lambda w: w.predict(run=w.write(w.forged, b"").forged)),
    "student: random bytes": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, np.random.default_rng(0).bytes(5000)).forged)),
    "student: cut in half": (
        REFUSED, lambda w: w.predict(run=w.header().truncated(w.forged).forged)),
    "student: a flipped bit": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, w.student.read_bytes()).flipped(w.forged).forged)),
    "student: a pickle": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, pickle.dumps(Bomb(w.root / "boom"))).forged)),
    "student: a header of 2^60 bytes": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, (2**60).to_bytes(8, "little") + b"{}").forged)),
    "student: another safetensors file": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, save({"a": torch.zeros(2)})).forged)),
    "student: a header nested without end": (
        REFUSED, lambda w: w.predict(run=w.write(
            w.forged, len(NESTED).to_bytes(8, "little") + NESTED.encode()).forged)),
    "student: a header that is a list": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, save({"a": torch.zeros(2)}, {"clip2seg": "[]"})).forged)),
    "student: another format": (REFUSED, lambda w: w.predict(run=w.header(format=99).forged)),
    "student: settings of another network": (
        REFUSED, lambda w: w.predict(run=w.header(student={"arch": "unet", "encoder": "resnet18"}).forged)),
    "student: settings that are text": (REFUSED, lambda w: w.predict(run=w.header(student="fpn").forged)),
    "student: another dimension": (REFUSED, lambda w: w.export(run=w.header(dim=31).forged)),
    "student: fewer embeddings than names": (
        REFUSED, lambda w: w.export(run=w.header(text=torch.zeros(1, 32)).forged)),
    "student: embeddings that are not finite": (
        REFUSED, lambda w: w.export(run=w.header(text=torch.full((2, 32), float("nan"))).forged)),
    "student: a run without one": (REFUSED, lambda w: w.predict(run=w.at("text"))),
    "student: no such run": (REFUSED, lambda w: w.predict(run=w.root / "none")),
    # -- caches (each spoiled copy is its own artifacts folder) -----------------------------------------------
    "cache: a flipped byte before training": (
        REFUSED, lambda w: w.spoil(lambda: w.flipped(next(w.at("tokens").rglob("global/c/*/*")))).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: a commit mark that is no JSON": (
        REFUSED, lambda w: w.spoil(lambda: w.write(next(w.at("tokens").rglob("commit.json")), "{")).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: a commit mark nested without end": (
        REFUSED, lambda w: w.spoil(lambda: w.write(next(w.at("tokens").rglob("commit.json")), NESTED)).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: a chunk that vanished": (
        REFUSED, lambda w: w.spoil(lambda: w.gone(next(w.at("tokens").rglob("local/c/*/*")))).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: another schema": (
        REFUSED, lambda w: w.spoil(lambda: w.reschemed(w.at("tokens"))).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: no latent classes": (
        REFUSED, lambda w: w.spoil(lambda: w.gone(w.at("latent"))).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: no text embeddings": (
        REFUSED, lambda w: w.spoil(lambda: w.gone(w.at("text"))).stage(
            "eval", "--set", "eval.short_side=32", fresh=False)),
    "cache: edited masks": (
        REFUSED, lambda w: w.image(grey(w) * 0 + 1, w.mask).stage("train", "--set", "train.seed=9", fresh=False)),
    "cache: the artifacts folder is a file": (
        REFUSED, lambda w: w.write(w.root / "new", "x").stage("extract")),
    "cache: an unknown kind of address": (REFUSED, lambda w: ("plan", str(w.preset), "--artifacts", "foo://bar")),
    # -- teachers ---------------------------------------------------------------------------------------------
    "teacher: no folder": (REFUSED, lambda w: w.gone(w.teacher).stage("extract")),
    "teacher: no weights": (REFUSED, lambda w: w.gone(w.teacher / "open_clip_model.safetensors").stage("extract")),
    "teacher: weights cut in half": (
        REFUSED, lambda w: w.truncated(w.teacher / "open_clip_model.safetensors").stage("extract")),
    "teacher: a pickle that would run": (
        REFUSED, lambda w: w.gone(w.teacher / "open_clip_model.safetensors").write(
            w.teacher / "open_clip_model.bin", pickle.dumps(Bomb(w.root / "boom"))).stage("extract")),
    "teacher: config is no JSON": (
        REFUSED, lambda w: w.write(w.teacher / "open_clip_config.json", "{").stage("extract")),
    "teacher: config nested without end": (
        REFUSED, lambda w: w.write(w.teacher / "open_clip_config.json", NESTED).stage("extract")),
    "teacher: config of another size than its weights": (
        REFUSED, lambda w: w.replaced(w.teacher / "open_clip_config.json", '"embed_dim": 32', '"embed_dim": 16').stage(
            "extract")),
    "teacher: config without a model": (
        REFUSED, lambda w: w.write(w.teacher / "open_clip_config.json", "{}").stage("extract")),
    "teacher: unknown name": (REFUSED, lambda w: w.stage("extract", "--set", "teacher.model=ViT-X-99")),
    "teacher: unknown weights": (
        REFUSED, lambda w: w.stage("extract", "--set", "teacher.model=ViT-B-32", "--set", "teacher.pretrained=none")),
    "teacher: unknown prompts": (REFUSED, lambda w: w.stage("extract", "--set", "teacher.prompts=none")),
    "teacher: embeddings that are a pickle": (
        REFUSED, lambda w: w.write(w.root / "t.npy", pickle.dumps(Bomb(w.root / "boom"))).write(
            w.root / "t.txt", "disc\n").stage("extract", "--set", f"teacher.text={w.root / 't.npy'}")),
    "teacher: gone when a new name is asked for": (
        REFUSED, lambda w: w.predict(None, "--classes", "house", "--teacher", "local-dir:/nowhere")),
    "teacher: named by the student's file alone": (REFUSED, lambda w: w.predict(None, "--classes", "house")),
    "teacher: a tokenizer that brings code": (
        REFUSED, lambda w: w.replaced(
            w.teacher / "open_clip_config.json", '"context_length": 12',
            '"context_length": 12, "hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": true}').stage(
                "extract")),
    "teacher: a model that is downloaded under another's name": (
        REFUSED, lambda w: w.replaced(
            w.teacher / "open_clip_config.json", '"image_size": 32',
            '"image_size": 32, "timm_model_name": "hf-hub:other/model"').stage("extract")),
    "teacher: a config of 100 GiB for weights of 1 MiB": (
        REFUSED, lambda w: w.replaced(
            w.teacher / "open_clip_config.json", '"layers": 2', '"layers": 100000').stage("extract")),
    # -- flags ------------------------------------------------------------------------------------------------
    "flag: unknown option": (REFUSED, lambda w: ("plan", "--nope")),
    "flag: unknown command": (REFUSED, lambda w: ("plam",)),
    "flag: an option without its value": (REFUSED, lambda w: ("extract", "--device")),
    "flag: unknown device": (REFUSED, lambda w: w.stage("extract", "--device", "gpu")),
    "flag: fewer than no workers": (REFUSED, lambda w: w.stage("mine-latent", "--workers", "-7")),
    "flag: text for a number": (REFUSED, lambda w: w.stage("train", "--workers", "many")),
    "flag: --set without a value": (REFUSED, lambda w: w.stage("train", "--set", "train.lr")),
    "flag: --set of an unknown key": (REFUSED, lambda w: w.stage("eval", "--set", "eval.sides=3")),
    "flag: --set nested without end": (REFUSED, lambda w: w.stage("extract", "--set", f"train.lr={NESTED}")),
    "flag: credentials in --artifacts": (
        REFUSED, lambda w: ("plan", str(w.preset), "--artifacts", "s3://key:secret@bucket/x")),
    "sweep: nothing to vary": (REFUSED, lambda w: w.stage("sweep")),
    "sweep: a setting without values": (REFUSED, lambda w: w.stage("sweep", "--over", "train.lr")),
    "sweep: a value twice": (REFUSED, lambda w: w.stage("sweep", "--over", "train.seed=1;1")),
    "sweep: an unknown setting": (REFUSED, lambda w: w.stage("sweep", "--over", "train.speed=1;2")),
    "sweep: a value that can't be": (REFUSED, lambda w: w.stage("sweep", "--over", "train.lr=1e-3;-1")),
    "sweep: no seeds": (REFUSED, lambda w: w.stage("sweep", "--over", "train.lr=1e-3;1e-4", "--seeds", "0")),
    "sweep: --markdown is a photo": (
        REFUSED, lambda w: w.stage("sweep", "--over", "train.lr=1e-3;1e-4", "--markdown", str(w.photo))),
    "calibrate: an unknown setting": (REFUSED, lambda w: w.stage("calibrate", "--set", "train.speed=9")),
    "ablate: a table that is text": (REFUSED, lambda w: w.ablate("--table", "three")),
    "ablate: an unknown setting": (REFUSED, lambda w: w.ablate("--set", "train.speed=9")),
    "ablate: --markdown is a folder": (REFUSED, lambda w: w.ablate("--markdown", str(w.data))),
    "ablate: --markdown lies in a file": (REFUSED, lambda w: w.ablate("--markdown", str(w.photo / "x.md"))),
    "ablate: --markdown is a photo": (REFUSED, lambda w: w.ablate("--markdown", str(w.photo))),
    "ablate: data that isn't there": (REFUSED, lambda w: w.ablate("--data", str(w.root / "none"))),
    "ablate: no such table": (REFUSED, lambda w: w.stage("ablate", "--table", "9")),
    "ablate: no seeds": (REFUSED, lambda w: w.stage("ablate", "--seeds", "0")),
    "predict: no such picture": (REFUSED, lambda w: w.predict(w.root / "none.jpg")),
    "predict: an empty folder": (REFUSED, lambda w: w.predict(w.run / "tensorboard")),
    "predict: a picture that is none": (REFUSED, lambda w: w.predict(w.words)),
    "predict: a bomb": (REFUSED, lambda w: w.predict(w.write(w.root / "b.png", bomb_png()).root / "b.png")),
    "predict: more pixels than allowed": (REFUSED, lambda w: w.predict(None, "--max-pixels", "50")),
    "predict: no pixels allowed": (REFUSED, lambda w: w.predict(None, "--max-pixels", "0")),
    "predict: no names": (REFUSED, lambda w: w.predict(None, "--classes", " , ")),
    "predict: a name twice": (REFUSED, lambda w: w.predict(None, "--classes", "disc,Disc")),
    "predict: a name of control characters": (REFUSED, lambda w: w.predict(None, "--classes", "a\x1b[31m")),
    "predict: a threshold of 2": (REFUSED, lambda w: w.predict(None, "--threshold", "2")),
    "predict: a threshold that is no number": (REFUSED, lambda w: w.predict(None, "--threshold", "nan")),
    "predict: an unknown mode": (REFUSED, lambda w: w.predict(None, "--mode", "fast")),
    "predict: a negative size": (REFUSED, lambda w: w.predict(None, "--short-side", "-3")),
    "predict: into a file": (REFUSED, lambda w: w.write(w.root / "out", "x").predict()),
    "predict: into a folder of other files": (REFUSED, lambda w: w.write(w.root / "out/mine", "x").predict()),
    "predict: one pixel": (
        WORKS, lambda w: w.predict(w.image(np.zeros((1, 1, 3), np.uint8), w.root / "p.png").root / "p.png")),
    "predict: a bad picture among good ones": (
        WORKS, lambda w: w.write(w.photo, b"").predict(w.data / "JPEGImages")),
    "predict: a video that is none": (REFUSED, lambda w: w.predict(w.write(w.root / "v.mp4", "x").root / "v.mp4")),
    "predict: a video": (WORKS, lambda w: w.predict(w.video(w.root / "v.mp4").root / "v.mp4")),
    "predict: a video cut in half": (
        REFUSED, lambda w: w.predict(w.video(w.root / "v.mp4").truncated(w.root / "v.mp4").root / "v.mp4")),
    "predict: a video of more pixels than allowed": (
        REFUSED, lambda w: w.predict(w.video(w.root / "v.mp4").root / "v.mp4", "--max-pixels", "3000")),
    "predict: HTML for a class": (
        WORKS, lambda w: w.predict(None, "--classes", "disc, <img src onerror>", *w.taught)),
    "predict: HTML with a slash for a class": (
        REFUSED, lambda w: w.predict(None, "--classes", "disc, <script>alert(1)</script>", *w.taught)),
    "predict: into a folder that lies in a file": (
        REFUSED, lambda w: w.predict(None, "--out", str(w.photo / "out"))),
    "predict: no run": (REFUSED, lambda w: ("predict", str(w.photo), "--run", "")),
    "predict: a preset without a student": (
        REFUSED, lambda w: ("predict", str(w.photo), "--run", str(w.preset), "--artifacts", str(w.root / "new"))),
    "predict: 300 names": (REFUSED, lambda w: w.predict(None, "--classes", ",".join(f"c{i}" for i in range(300)))),
    "predict: a name of 200 letters": (REFUSED, lambda w: w.predict(None, "--classes", "a" * 200)),
    "predict: names of many scripts": (WORKS, lambda w: w.predict(None, "--classes", "disc, 羊, вівця, 🐑", *w.taught)),
    "predict: a seen bias that is no number": (REFUSED, lambda w: w.predict(None, "--seen-bias", "nan")),
    "predict: a side of a million pixels": (REFUSED, lambda w: w.predict(None, "--short-side", "1000000")),
    "predict: an unknown device": (REFUSED, lambda w: w.predict(None, "--device", "tpu")),
    "predict: a link out of the folder": (
        REFUSED, lambda w: w.linked_out(w.photo).predict(w.data / "JPEGImages")),
    "predict: over the pictures themselves": (
        REFUSED, lambda w: w.predict(w.data / "JPEGImages", "--out", str(w.data / "JPEGImages"))),
    "export: unknown format": (REFUSED, lambda w: w.export("--format", "tflite")),
    "export: an old opset": (REFUSED, lambda w: w.export("--format", "onnx", "--opset", "7")),
    "export: no photos": (REFUSED, lambda w: w.export("--photos", str(w.root / "none"))),
    "export: an opset of the future": (REFUSED, lambda w: w.export("--format", "onnx", "--opset", "99")),
    "export: photos that are none": (REFUSED, lambda w: w.export("--photos", str(w.words))),
    "export: a folder without photos": (REFUSED, lambda w: w.export("--photos", str(w.teacher))),
    "export: a bomb for a photo": (
        REFUSED, lambda w: w.export("--photos", str(w.write(w.root / "b.png", bomb_png()).root / "b.png"))),
    "export: a photo of one pixel": (
        WORKS, lambda w: w.export("--photos", str(w.image(
            np.zeros((1, 1, 3), np.uint8), w.root / "p.png").root / "p.png"))),
    "export: into a folder that lies in a file": (REFUSED, lambda w: w.export("--out", str(w.photo / "out"))),
    "export: a name twice": (REFUSED, lambda w: w.export("--classes", "disc, disc")),
    "export: the best of several words, one embedding a class": (
        REFUSED, lambda w: w.export("--classes", "circle = disc | ring, box", "--synonyms", "max", *w.taught)),
    "export: a seen bias that is no number": (REFUSED, lambda w: w.export("--seen-bias", "inf")),
    "export: no such run": (REFUSED, lambda w: w.export(run=w.root / "none")),
    "export: into a run": (REFUSED, lambda w: w.export("--out", str(w.run))),
    "export: a repository that can't be": (REFUSED, lambda w: w.export("--push-to-hub", "../../x y")),
    "runs: no artifacts": (REFUSED, lambda w: ("runs", "--artifacts", str(w.root / "none"))),
    "runs: an unknown preset": (REFUSED, lambda w: ("runs", "none", "--artifacts", str(w.guarded))),
    "runs: a comparison with nothing": (
        REFUSED, lambda w: ("runs", "--artifacts", str(w.guarded), "--compare", "a", "--compare", "b")),
    "runs: a comparison of one": (
        REFUSED, lambda w: ("runs", "--artifacts", str(w.guarded), "--compare", "train")),
    "runs: a path upwards": (REFUSED, lambda w: ("runs", "..", "--artifacts", str(w.guarded))),
    "runs: a store that doesn't exist": (REFUSED, lambda w: ("runs", "--artifacts", "foo://bar")),
    "runs: a run that is damaged": (
        WORKS, lambda w: ("runs", "--artifacts", str(w.write(
            w.root / "other/p/train-1/student.safetensors", "x").root / "other"))),
    "doctor: an unknown preset": (REFUSED, lambda w: ("doctor", "none")),
    "doctor: a preset that is no TOML": (REFUSED, lambda w: ("doctor", str(w.write(w.preset, "[").preset))),
    "doctor: artifacts in a file": (WORKS, lambda w: ("doctor", "--artifacts", str(w.photo / "x"))),
    "doctor: a preset without its teacher": (
        REPORTS, lambda w: ("doctor", str(w.gone(w.teacher).preset), "--artifacts", str(w.root))),
    "doctor: a preset without its data": (
        REPORTS, lambda w: ("doctor", str(w.gone(w.data).preset), "--artifacts", str(w.root))),
    "data init: no folder": (REFUSED, lambda w: ("data", "init", str(w.root / "none"))),
    "data init: a folder of something else": (REFUSED, lambda w: ("data", "init", str(w.teacher))),
    "data init: photos without masks": (
        REFUSED, lambda w: w.own(masks=False).init()),
    "data init: masks that say nothing": (REFUSED, lambda w: w.own(255).init()),
    "data init: a list of names that is a photo": (
        REFUSED, lambda w: w.own().init("--names", str(w.photo))),
    "data init: twice": (WORKS, lambda w: [w.own().init(), w.init()]),
    "data init: a folder where a file goes": (
        REFUSED, lambda w: w.own().folder(w.root / "own/classes.toml").init("--force")),
    "data init: markup for a name": (REFUSED, lambda w: w.own(names="3 <b>sheep</b>\n").init()),
    "data init: a path for a name": (REFUSED, lambda w: w.own(names="3 ../../sheep\n").init()),
    "data init: a value named twice": (REFUSED, lambda w: w.own(names="3 cat\n3 dog\n").init()),
    "data init: one name for two values": (REFUSED, lambda w: w.own(3, 4, names="3 cat\n4 cat\n").init()),
    "data init: a name without a value": (REFUSED, lambda w: w.own(names="sheep\n").init()),
    "data init: masks in colour": (
        REFUSED, lambda w: w.own().image(coloured(8, 8), w.root / "own/masks/0.png").image(
            coloured(8, 8), w.root / "own/masks/1.png").gone(w.root / "own/masks/2.png").gone(
            w.root / "own/images/2.jpg").init()),
    "data init: 16-bit depths for masks": (
        REFUSED, lambda w: w.own().image(
            np.arange(400, dtype=np.uint16).reshape(20, 20), w.root / "own/masks/0.png").image(
            np.zeros((20, 20, 3), np.uint8), w.root / "own/images/0.jpg").init()),
    "data init: a link out of the folder": (
        REFUSED, lambda w: w.own().linked_out(w.root / "own/masks/0.png").init()),
    "data init: a bomb among the photos": (
        WORKS, lambda w: w.own().write(w.root / "own/images/0.jpg", bomb_png()).init()),
    "data init: one class": (WORKS, lambda w: w.own(7).init()),
    "data import: nothing to import": (
        REFUSED, lambda w: ("data", "import", str(w.teacher), "--out", str(w.root / "new"))),
    "data import: a damaged COCO file": (
        REFUSED, lambda w: w.own(masks=False).write(w.root / "own/instances_all.json", "[" * 9999).imported()),
    "data import: a COCO file that names a path upwards": (
        REFUSED, lambda w: w.own(masks=False).write(w.root / "own/instances_all.json", json.dumps(
            {"images": [{"id": 1, "file_name": "../../x.jpg"}], "annotations": [], "categories": []})).imported()),
    "data import: YOLO labels, one of them damaged": (
        WORKS, lambda w: w.own(masks=False).write(w.root / "own/labels/0.txt", "0 0 0 1 0 1 1\n").write(
            w.root / "own/labels/1.txt", "0 0 0 1 0 1 1\n0 0.1 nan\n").imported()),
    "data import: a tar file cut off": (
        REFUSED, lambda w: w.own(masks=False).write(w.root / "own/train.tar", b"x" * 700).imported()),
    "data import: parquet that is none": (
        REFUSED, lambda w: w.own(masks=False).write(w.root / "own/train.parquet", b"PAR1 and no more").imported()),
    "data import: a pickle for a MATLAB file": (
        REFUSED, lambda w: w.own(masks=False).write(
            w.root / "own/images/0.mat", pickle.dumps(Bomb(w.root / "boom"))).imported()),
    "data import: into a folder of other files": (
        REFUSED, lambda w: w.own().imported("--out", str(w.data))),
    "data import: an unknown format": (REFUSED, lambda w: w.own().imported("--format", "cocoa")),
    "data check: a bad mask": (REPORTS, lambda w: ("data", "check", str(w.write(w.mask, b"").preset))),
    "data check: an id on both lists": (
        REPORTS, lambda w: ("data", "check", str(w.listed("val00\ntrain00\n").preset))),
    "data check: fewer than no workers": (REFUSED, lambda w: ("data", "check", str(w.preset), "--workers", "-1")),
    "data check: no such preset": (REFUSED, lambda w: ("data", "check", "none")),
    "data check: a bomb": (REPORTS, lambda w: ("data", "check", str(w.write(w.photo, bomb_png()).preset))),
    "data check: a link out of the folder": (
        REFUSED, lambda w: ("data", "check", str(w.linked_out(w.photo).preset))),
    "data check: no list": (REFUSED, lambda w: ("data", "check", str(w.gone(w.list).preset))),
    "data prepare voc: nothing there": (REFUSED, lambda w: ("data", "prepare", "voc", str(w.data), str(w.teacher))),
    "data prepare voc: a file for a folder": (
        REFUSED, lambda w: ("data", "prepare", "voc", str(w.photo), str(w.photo))),
    "data prepare voc: photos of the list are missing": (
        REFUSED, lambda w: ("data", "prepare", "voc", str(w.data), str(
            w.write(w.root / "sbd/dataset/cls/2008_000002.mat", pickle.dumps(Bomb(w.root / "boom"))).root / "sbd"))),
    "data: no command": (REFUSED, lambda w: ("data", "chek")),
    "mine-latent: before extract": (REFUSED, lambda w: w.stage("mine-latent")),
    "train: before extract": (REFUSED, lambda w: w.stage("train")),
    "eval: before train": (REFUSED, lambda w: w.stage("eval")),
    "extract: an input size that patches don't divide": (
        REFUSED, lambda w: w.stage("extract", "--set", "teacher.input_size=63")),
    "extract: a recipe of other towers": (REFUSED, lambda w: w.stage("extract", "--set", "teacher.recipe=feature_map")),
    "extract: no data folder": (REFUSED, lambda w: w.gone(w.data).stage("extract")),
    "mine-latent: no windows": (REFUSED, lambda w: w.stage("mine-latent", "--set", "mine-latent.windows=[]")),
    "mine-latent: a window of no cell": (REFUSED, lambda w: w.stage("mine-latent", "--set", "mine-latent.windows=[0]")),
    "mine-latent: a threshold above 1": (
        REFUSED, lambda w: w.stage("mine-latent", "--set", "mine-latent.merge_threshold=1.5")),
    "train: a warm-up longer than the run": (
        REFUSED, lambda w: w.stage("train", "--set", "train.warmup=6", fresh=False)),
    "train: parts that don't divide the batch": (
        REFUSED, lambda w: w.stage("train", "--set", "train.grad_accumulation_steps=3", fresh=False)),
    "train: a bank smaller than the batch": (
        REFUSED, lambda w: w.stage("train", "--set", "distill.bank_size=2", fresh=False)),
    "train: a learning rate that diverges": (
        REFUSED, lambda w: w.stage("train", "--set", "train.lr=1e30", fresh=False)),
    "train: a batch larger than the data": (
        WORKS, lambda w: w.stage(
            "train", "--set", "train.batch=20", "--set", "train.grad_accumulation_steps=5", fresh=False)),
    "train: encoder weights that are a pickle": (
        REFUSED, lambda w: w.write(w.root / "w.pth", pickle.dumps(Bomb(w.root / "boom"))).stage(
            "train", "--set", f"student.weights={w.root / 'w.pth'}", fresh=False)),
    "train: encoder weights of another network": (
        REFUSED, lambda w: w.write(w.root / "w.safetensors", save({"a": torch.zeros(2)})).stage(
            "train", "--set", f"student.weights={w.root / 'w.safetensors'}", fresh=False)),
    "train: more labelled crops than a batch has": (
        REFUSED, lambda w: w.stage("train", "--set", "train.labelled_per_batch=9", fresh=False)),
    "train: concepts that are not there": (
        REFUSED, lambda w: w.stage("train", "--set", "latent-embedding.classes=concept", fresh=False)),
    "train: a calibrator without its inputs": (
        REFUSED, lambda w: w.stage("train", "--set", "latent-embedding.calibrator=mlp", fresh=False)),
    "eval: a stride that leaves gaps": (
        REFUSED, lambda w: w.stage("eval", "--set", "eval.stride=100", fresh=False)),
    "eval: a background that no mask value means": (
        REFUSED, lambda w: w.write(w.data / "classes.toml", (w.data / "classes.toml").read_text().replace(
            "background = [0]", "")).stage("eval", "--set", "eval.background=true", fresh=False)),
    "eval: a threshold of no background": (
        REFUSED, lambda w: w.stage("eval", "--set", "eval.background_threshold=0.5", fresh=False)),
    "eval: a student that was edited": (
        REFUSED, lambda w: w.spoil(lambda: w.flipped(w.student)).stage(
            "eval", "--set", "eval.short_side=32", fresh=False)),
    # -- asking ------------------------------------------------------------------------------------------------
    "mine-concepts: before mine-latent": (
        REFUSED, lambda w: ("mine-concepts", str(w.preset), "--artifacts", str(w.root / "new"))),
    "mine-concepts: more concepts than there may be": (
        REFUSED, lambda w: ("mine-concepts", str(w.preset), "--set", "mine-concepts.count=9999")),
    "mine-concepts: a confidence above 1": (
        REFUSED, lambda w: ("mine-concepts", str(w.preset), "--set", "mine-concepts.min_confidence=1.5")),
    "mine-concepts: concepts to reuse that are not there": (
        REFUSED, lambda w: ("mine-concepts", str(w.preset), "--set", f"mine-concepts.reuse={w.root}/none.zarr")),
    "data apply-concepts: no such file": (
        REFUSED, lambda w: ("data", "apply-concepts", str(w.preset), str(w.root / "none.json"))),
    "data apply-concepts: a file that says something else": (
        REFUSED, lambda w: ("data", "apply-concepts", str(w.write(w.root / "choices.json", "[1]").preset),
                            str(w.root / "choices.json"))),
    "pseudo-label: before extract": (
        REFUSED, lambda w: ("pseudo-label", str(w.preset), "--artifacts", str(w.root / "new"))),
    "pseudo-label: a confidence above 1": (
        REFUSED, lambda w: ("pseudo-label", str(w.preset), "--set", "pseudo-label.confidence=1.5")),
    "train: pseudo labels that are not there": (
        REFUSED, lambda w: ("train", str(w.preset), "--set", "data.label_share=0.5",
                            "--set", "pixel-loss.pseudo_weight=1", "--artifacts", str(w.root / "new"))),
    "train: --from a run that is not there": (
        REFUSED, lambda w: ("train", str(w.preset), "--from", str(w.root / "none"))),
    "data suggest: before mine-concepts": (
        REFUSED, lambda w: ("data", "suggest", str(w.preset), "--artifacts", str(w.root / "artifacts"))),
    "certify: one photo": (REFUSED, lambda w: ("certify", str(w.preset), "--photos", "1", "--device", "cpu")),
    "inspect: concepts before mine-concepts": (REFUSED, lambda w: w.ask("concepts")),
    "inspect: an unknown question": (REFUSED, lambda w: w.ask("colour")),
    "inspect: image of nothing": (REFUSED, lambda w: w.ask("image")),
    "inspect: image of a path": (REFUSED, lambda w: w.ask("image", "../../etc/passwd")),
    "inspect: image of an unknown id": (REFUSED, lambda w: w.ask("image", "none")),
    "inspect: a region that isn't there": (REFUSED, lambda w: w.ask("neighbours", "train00:latent99")),
    "inspect: a count below zero": (REFUSED, lambda w: w.ask("outliers", "--count", "-5")),
    "inspect: a count that is text": (REFUSED, lambda w: w.ask("outliers", "--count", "many")),
    "inspect: no such vocabulary": (REFUSED, lambda w: w.ask("quality", "--vocabulary", "none")),
    "inspect: a vocabulary that is a photo": (
        REFUSED, lambda w: w.ask("quality", "--vocabulary", str(
            w.write(w.root / "v.txt", w.photo.read_bytes()).root / "v.txt"))),
    "inspect: an empty vocabulary": (
        REFUSED, lambda w: w.ask("quality", "--vocabulary", str(w.write(w.root / "v.txt", "").root / "v.txt"))),
    "inspect: before extract": (REFUSED, lambda w: w.ask("quality", fresh=True)),
    "inspect: losses before train": (REFUSED, lambda w: w.ask("losses", fresh=True)),
    "inspect: pictures into a file": (
        REFUSED, lambda w: w.ask("outliers", "--out", str(w.photo))),
    "inspect: a flipped byte of the cache": (
        REFUSED, lambda w: w.spoil(lambda: w.flipped(next(w.at("tokens").rglob("global/c/*/*")))).ask("quality")),
    "inspect: a cache of another schema": (
        REFUSED, lambda w: w.spoil(lambda: w.reschemed(w.at("tokens"))).ask()),
    "inspect: more hits than there are regions": (WORKS, lambda w: w.ask("search", "disc", "--count", "9999")),
    # -- the cache's own tools ---------------------------------------------------------------------------------
    "cache list: a preset that is a path upwards": (REFUSED, lambda w: w.cache("list", "..")),
    "cache list: artifacts that are a file": (REFUSED, lambda w: w.cache("list", artifacts=w.photo)),
    "cache list: a store that doesn't exist": (REFUSED, lambda w: w.cache("list", artifacts="foo://bar")),
    "cache list: a root mark that is no JSON": (
        WORKS, lambda w: w.spoil(lambda: w.write(w.at("tokens") / "zarr.json", "{")).cache("list")),
    "cache list: a root mark nested without end": (
        WORKS, lambda w: w.spoil(lambda: w.write(w.at("tokens") / "zarr.json", NESTED)).cache("list")),
    "cache list: a student that is no student": (
        WORKS, lambda w: w.spoil(lambda: w.write(w.student, b"x" * 40)).cache("list")),
    "cache show: no such address": (REFUSED, lambda w: w.cache("show", "tokens-00000000")),
    "cache show: a path upwards": (REFUSED, lambda w: w.cache("show", "../../etc/passwd")),
    "cache show: a name that fits many": (REFUSED, lambda w: w.cache("show", "t")),
    "cache rm: no such address": (REFUSED, lambda w: w.cache("rm", "tokens-00000000")),
    "cache rm: what a run uses": (REFUSED, lambda w: w.cache("rm", w.at("text").name)),
    "cache rm: an empty name where there is one address": (REFUSED, lambda w: w.alone("text").cache("rm", "")),
    "cache rm: a path upwards": (REFUSED, lambda w: w.cache("rm", "..")),
    "cache rm: the preset's whole folder": (REFUSED, lambda w: w.cache("rm", "tiny/")),
    "cache gc: --unused without a preset": (REFUSED, lambda w: w.cache("gc", "--unused")),
    "cache gc: a preset that is a path upwards": (REFUSED, lambda w: w.cache("gc", "..")),
    "cache verify: a flipped byte": (
        REPORTS, lambda w: w.spoil(lambda: w.flipped(next(w.at("tokens").rglob("global/c/*/*")))).cache("verify")),
    "cache verify: a mark that is no JSON": (
        REPORTS, lambda w: w.spoil(lambda: w.write(next(w.at("latent").rglob("commit.json")), "{")).cache("verify")),
    "cache verify: a mark nested without end": (
        REPORTS, lambda w: w.spoil(lambda: w.write(next(w.at("latent").rglob("commit.json")), NESTED)).cache("verify")),
    "cache verify: a student cut in half": (
        REPORTS, lambda w: w.spoil(lambda: w.truncated(w.student)).cache("verify")),
    "cache verify: a mark nested without end, repaired": (
        WORKS, lambda w: w.spoil(lambda: w.write(next(w.at("latent").rglob("commit.json")), NESTED)).cache(
            "verify", "--repair")),
    "cache verify: a teacher without a preset": (REFUSED, lambda w: w.cache("verify", "--encode-again", "2")),
    "cache verify: fewer than no views": (REFUSED, lambda w: w.cache("verify", "--encode-again", "-2")),
    "cache verify: its teacher is gone": (
        REFUSED, lambda w: w.gone(w.teacher).cache("verify", str(w.preset), "--encode-again", "2", "--device", "cpu")),
    "cache drop-dense: nothing there": (
        REFUSED, lambda w: w.cache("drop-dense", str(w.preset), artifacts=w.root / "new")),
    "cache drop-dense: no such preset": (REFUSED, lambda w: w.cache("drop-dense", "none")),
    "cache: an unknown tool": (REFUSED, lambda w: ("cache", "clean")),
    # -- the rest ----------------------------------------------------------------------------------------------
    "demo: no such preset": (REFUSED, lambda w: w.demo(preset="none")),
    "demo: an unknown setting": (REFUSED, lambda w: w.demo("--set", "demo-world.colour=1")),
    "demo: artifacts that are a file": (REFUSED, lambda w: w.demo("--artifacts", str(w.photo))),
    "demo: a world without scenes": (REFUSED, lambda w: w.demo("--set", "demo-world.train=0", preset="demo")),
    "teacher: into a file": (REFUSED, lambda w: ("teacher", str(w.photo))),
    "teacher: into a folder that lies in a file": (REFUSED, lambda w: ("teacher", str(w.photo / "x"))),
    "teacher: onto an unknown device": (REFUSED, lambda w: ("teacher", str(w.root / "t"), "--device", "gpu")),
    "benchmark: no such measurement": (REFUSED, lambda w: ("benchmark", "speed")),
    "benchmark: rounds below zero": (REFUSED, lambda w: ("benchmark", "efficiency", "--rounds", "-1")),
    "benchmark: an unknown device": (REFUSED, lambda w: ("benchmark", "efficiency", "--device", "gpu")),
}  # fmt: skip
