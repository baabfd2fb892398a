"""Claims about runs, teachers, photos and videos that other people made, and about processes that come back late.

Forged marks and metadata of a cache: tests/cache/test_marks.py; links: tests/cache/test_links.py.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

import stages.train as training
from cache.claims import Claim, writing
from cache.errors import InputError
from cache.headers import header_of, student_bytes
from cache.location import Location, StoreError
from cache.store import Artifact
from pipeline.machine import Machine
from pipeline.run import mine_latent
from pipeline.upkeep import cache_tools as cache_tool
from stages.parts.data.images import MAX_BYTES, BadSample, read_image
from stages.parts.students.checkpoint import unpack
from stages.parts.teacher.files import read_config
from stages.parts.teacher.settings import TeacherConfig, teacher_identity
from stages.running import checkpoints
from stages.running.cached_teacher import load_cache

if TYPE_CHECKING:
    from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tiny: Tiny, tmp_path: Path) -> Location:
    """A copy of a finished run."""
    tiny.run("train")
    at = tmp_path / "artifacts/tiny" / Path(str(tiny.plan().address("train"))).name
    shutil.copytree(str(tiny.plan().address("train")), at)
    return Location(str(at))


def other_process(at: Location, name: str = "claim.json") -> None:
    """Another process's claim, renewed this moment."""
    at.put(name, json.dumps(vars(Claim.mine()) | {"pid": os.getppid(), "owner": "another"}).encode())


# -- a process that stood still, and comes back -------------------------------------------------------------------


def test_a_training_whose_claim_was_taken_over_stops_before_it_writes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run("mine-latent", artifacts=tmp_path)
    at = tiny.plan(artifacts=tmp_path).address("train")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    original, saves = checkpoints.save, []

    def stopped(*args: Any, **kwargs: Any) -> Any:
        saves.append(1)
        if len(saves) == 2:  # it slept here; meanwhile another process trained to the end
            other_process(at)
            at.put("student.safetensors", b"the other's")
        return original(*args, **kwargs)

    monkeypatch.setattr("stages.train.save", stopped)
    with pytest.raises(InputError, match="another process took this run over"):
        tiny.run("train", "train.iterations=6", artifacts=tmp_path)
    assert at.get("student.safetensors") == b"the other's" and at.get("complete.json") is None
    assert (Claim.parsed(at.get("claim.json")) or Claim.mine()).owner == "another"


def test_a_training_whose_folder_was_removed_says_so_and_makes_none(tmp_path: Path) -> None:
    out = Location(str(tmp_path / "tiny/train-0"))
    with pytest.raises(InputError, match=r"claim\.json is gone, so the folder was removed while this run trained"):
        checkpoints.check_claim(out)
    assert not (tmp_path / "tiny").exists()


def test_every_reader_refuses_a_student_that_was_written_over(run: Location, tiny: Tiny) -> None:
    from clip2seg import load_student
    from stages.report import run as report
    from stages.running.scoring.student import load_student as scored

    assert run.path is not None
    packed = run.get("student.safetensors") or b""
    tensors = {k: v + 1 if k == "text.seen" else v for k, v in load(packed).items()}
    about = json.loads(header_of(packed)["__metadata__"]["clip2seg"])
    about.pop("sha256")
    run.put("student.safetensors", save(tensors, {"clip2seg": json.dumps(about)}))  # a sound file, but another one
    for reader in (
        lambda: load_student(run.path, device="cpu"),
        lambda: scored(run),
        lambda: report(run, [], {}),
        lambda: student_bytes(run),
    ):
        with pytest.raises(StoreError, match="not what training ended with"):
            reader()


def test_the_digest_is_of_what_training_wrote_not_of_what_lies_there(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run("mine-latent", artifacts=tmp_path)
    at, original = tiny.plan(artifacts=tmp_path).address("train"), Location.put_mark

    def late(self: Location, name: str, value: Any) -> None:
        if name == "complete.json" and self.name.startswith("train-"):
            self.put("student.safetensors", b"somebody else's")
        original(self, name, value)

    monkeypatch.setattr(Location, "put_mark", late)
    with pytest.raises(StoreError, match="not what training ended with"):  # its own report is the first reader
        tiny.run("train", artifacts=tmp_path)
    with pytest.raises(StoreError, match="not what training ended with"):
        student_bytes(at)


# -- what is in use is not tidied away -----------------------------------------------------------------------------


def test_gc_and_rm_leave_every_tier_of_a_running_extraction_alone(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("extract", artifacts=tmp_path)
    plan = tiny.plan(artifacts=tmp_path)
    names = {kind: plan.address(kind).name for kind in ("tokens", "dense", "text")}
    with writing(*(plan.address(kind) for kind in names)):
        assert cache_tool.collect(str(tmp_path), "tiny", set(), dry=False)["removed"] == []
        for name in names.values():
            with pytest.raises(InputError, match="is writing it"):
                cache_tool.remove(str(tmp_path), [name], force=True)
        with pytest.raises(InputError, match="is writing it"):
            cache_tool.drop_dense(plan)
    assert {e.name for e in cache_tool.entries(str(tmp_path))} == set(names.values())
    assert len(cache_tool.collect(str(tmp_path), "tiny", set(), dry=False)["removed"]) == 3


def test_an_extraction_claims_all_its_tiers_from_the_first_moment(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.parts.teacher.teacher import load_teacher as original

    seen: list[set[str]] = []

    def loading(*args: Any) -> Any:
        found = (p for p in tmp_path.rglob("writers/*claim.json"))
        seen.append({p.parts[-3].partition("-")[0] for p in found})
        return original(*args)

    monkeypatch.setattr("stages.extract.load_teacher", loading)
    tiny.run("extract", artifacts=tmp_path)
    assert seen == [{"tokens", "dense", "text"}]
    assert not list(tmp_path.rglob("*claim.json"))


def test_a_run_names_what_it_reads_before_its_first_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run("mine-latent", artifacts=tmp_path)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "make_optimiser", stop)
    with pytest.raises(KeyboardInterrupt):
        tiny.run("train", artifacts=tmp_path)
    found = {e.kind: e for e in cache_tool.entries(str(tmp_path))}
    assert found["train"].name in found["tokens"].used_by and found["train"].name in found["latent"].used_by
    with pytest.raises(InputError, match=r"used by .*train-"):
        cache_tool.remove(str(tmp_path), [found["tokens"].name], force=False)
    assert cache_tool.collect(str(tmp_path), "tiny", set(), dry=True)["removed"] == [f"tiny/{found['dense'].name}"] or (
        found["dense"].used_by
    )


# -- a cache of fewer views, or of other photos --------------------------------------------------------------------


def test_a_complete_mark_of_fewer_shards_is_not_believed(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("mine-latent", artifacts=tmp_path)
    plan = tiny.plan(artifacts=tmp_path)
    for kind in ("tokens", "latent"):
        artifact = plan.artifact(kind)
        artifact.at.put_mark("complete.json", {"schema": 2, "shards": 2, "summary": artifact.summary()})
    steps = {step.stage: step.done for step in plan.steps()}
    assert not steps["extract"] and not steps["mine-latent"]
    with pytest.raises(InputError, match="holds 8 of the data set's 12 views"):
        load_cache(plan.artifact("tokens"), plan.artifact("latent"), num_seen=2, rows=12)
    tiny.run("mine-latent", artifacts=tmp_path)  # and the stages mend it
    assert all(len(plan.artifact(kind).shards()) == 3 for kind in ("tokens", "dense", "latent"))


def test_a_photo_of_as_many_bytes_put_in_another_ones_place_is_noticed(fresh_tiny: Tiny) -> None:
    fresh_tiny.run("extract")
    photo = fresh_tiny.data / "JPEGImages/train03.jpg"
    data = photo.read_bytes()
    photo.write_bytes(data[:14] + bytes([data[14] ^ 1]) + data[15:])
    plan, machine = fresh_tiny.plan(), Machine("cpu", 0)
    with pytest.raises(InputError, match=r"train03\.jpg: is not the photo that was extracted"):
        mine_latent(plan, machine)
    for stage in ("extract", "train"):
        with pytest.raises(InputError, match=r"train03\.jpg: edited since"):
            fresh_tiny.run(stage)


def test_tokens_that_are_not_finite_are_named_before_a_step_is_made(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("mine-latent", artifacts=tmp_path)
    plan = tiny.plan(artifacts=tmp_path)
    tokens = plan.artifact("tokens")
    arrays, mark = tokens.read(1), tokens.commit(1) or {}
    arrays["local"][0, 3] = np.nan
    tokens.write(1, mark["ids"], arrays, mark["stats"])
    with pytest.raises(InputError, match=r"1 local tokens are not finite, first of view train04") as error:
        tiny.run("train", artifacts=tmp_path)
    assert "train.lr" not in str(error.value)


def test_two_classes_with_one_embedding_are_refused_by_name(fresh_tiny: Tiny) -> None:
    words = fresh_tiny.data / "classes.toml"
    words.write_text(words.read_text().replace('"stripes"', '"DISC"'))
    with pytest.raises(InputError, match=r"classes '(disc|DISC)' and '(disc|DISC)' have the same text embedding"):
        fresh_tiny.run("extract")


# -- states, reports and curves that say nonsense ------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"iteration": 10**9}, {"iteration": "x"}, {"iteration": None}, {"seconds": -1}, {"student": 7}, {"iteration": -1}],
)
def test_a_state_without_its_fields_trains_nothing(
    change: dict[str, object], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny.plan(artifacts=tmp_path)
    at = plan.address("train")

    class Learner:
        optimiser = None
        cfg = plan.config.train

        def modules(self) -> dict[str, torch.nn.Module]:
            return {}

    at.put("state.safetensors", b"x")
    about = {"iteration": 2, "seconds": 1.0, "student": "0" * 64} | change
    monkeypatch.setattr(checkpoints, "unpack_state", lambda *_: about)
    with pytest.raises(InputError, match=r"state\.safetensors: says iteration .* remove it to train from the start"):
        checkpoints.resumed(at, Learner())


def test_broken_curves_and_reports_do_not_end_in_a_traceback(tiny: Tiny, run: Location) -> None:
    from pipeline.study.runs import run_at
    from stages.report import run as report

    run.put("curves.jsonl", b'{"iteration": 0, "lr": 1, "total": 2}\nnonsense\n[1]\n{"iteration": NaN}\n\xff\xfe\n')
    report(run, [], {})
    evaluation = run.parent.child("eval-12345678")
    evaluation.put("report.json", b'{"run": 7')
    assert run_at(run).evaluations == []
    assert any("report.json: damaged" in f for f in cache_tool.verify(str(run.parent.parent))["faults"])
    cache_tool.verify(str(run.parent.parent), repair=True)
    assert evaluation.get("report.json") is None  # so that `eval` makes it anew


# -- students' files ----------------------------------------------------------------------------------------------


def forged(packed: bytes, change: Any) -> bytes:
    """A student whose header says something else, unsealed as a forger would leave it."""
    about = json.loads(header_of(packed)["__metadata__"]["clip2seg"])
    about.pop("sha256")
    change(about)
    return save(load(packed), {"clip2seg": json.dumps(about)})


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a["provenance"]["ingredients"]["views"].update(size="abc"),
        lambda a: a["provenance"]["ingredients"]["views"].update(size=float("inf")),
        lambda a: a["provenance"]["ingredients"]["views"].update(size=10**9),
        lambda a: a["provenance"]["ingredients"].update(views=[1]),
        lambda a: a["provenance"]["ingredients"].update({"pixel-loss": []}),
        lambda a: a["provenance"].update(ingredients=[]),
        lambda a: a.update(provenance="x"),
        lambda a: a["provenance"].update(teacher=["local-dir:/"]),
        lambda a: a["provenance"]["ingredients"]["text"].update(words=3),
        lambda a: a.update(student=[]),
        lambda a: a.update(seen={"a": 1}),
        lambda a: a.update(dim=2**24),
        lambda a: a.update(dim=64),
        lambda a: a["student"].update(encoder="tu-eva_giant_patch14_560"),
        lambda a: a["student"].update(encoder="resnet152"),
        lambda a: a["student"].update(encoder="tu-hf-hub:other/model"),
        lambda a: a["student"].update(head_channels=2**20),
    ],
)
def test_a_forged_student_is_refused_before_its_network_is_made(
    change: Any, run: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.parts.students import build_student as original

    made = forged(run.get("student.safetensors") or b"", change)

    def small(*args: Any) -> Any:
        net = original(*args)
        held = sum(p.numel() for p in net.parameters() if p.device.type != "meta")
        assert held < 10**6, "the network was made with its memory"
        return net

    monkeypatch.setattr("stages.parts.students.checkpoint.build_student", small)
    with pytest.raises(InputError, match=r"^forged: not a (usable )?clip2seg student") as error:
        unpack(made, "forged")
    assert "\n" not in str(error.value)


def test_names_of_students_are_unique_names_of_files(run: Location, tiny: Tiny, tmp_path: Path) -> None:
    """Of a.jpg, a.png and a.jpg.png each has its own outputs; a name that is no UTF-8 has its line in predict.json."""
    source = tmp_path / "photos"
    source.mkdir()
    pixels = Image.open(tiny.data / "JPEGImages/val00.jpg")
    names = ["a.jpg", "a.png", "a.jpg.png", "A.PNG"]
    for name in names:
        pixels.save(source / name, format="PNG")
    (source / os.fsdecode(b"caf\xe9.png")).write_bytes((source / "a.png").read_bytes())
    out = tmp_path / "out"
    code, said = console(["predict", str(source), "--run", str(run), "--out", str(out), "--device", "cpu"])
    assert code == 0, said
    report = json.loads((out / "predict.json").read_text())
    assert len(report["images"]) == 5 == len({one["name"].casefold() for one in report["images"]})
    assert len(list((out / "labels").iterdir())) == len(list((out / "overlays").iterdir())) == 5
    assert any(os.fsencode(one["file"]).endswith(b"caf\xe9.png") for one in report["images"])


def console(command: list[str], **env: str) -> tuple[int, str]:
    """The real command in a process of its own; exit code and all that it said."""
    done = subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import main; main()", *command],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "surrogateescape")


def test_terminals_of_ascii_alone_and_python_without_asserts_are_served(tmp_path: Path) -> None:
    preset = tmp_path / "pré\x1b[31m\u202eset.toml"
    code, said = console(["plan", str(preset)], PYTHONIOENCODING="ascii", PYTHONOPTIMIZE="2")
    assert code == 2 and r"pr\xe9\x1b[31m\u202eset.toml" in said and "Traceback" not in said and said.count("\n") == 1


def test_a_seed_that_no_generator_takes_is_refused() -> None:
    from pipeline.config import load_config

    for key in ("train.seed", "views.seed"):
        with pytest.raises(InputError, match=f"{key.replace('.', '.*')}"):
            load_config("demo", [f"{key}={2**70}"])


# -- teachers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def teacher(tiny: Tiny, tmp_path: Path) -> Path:
    shutil.copytree(tiny.teacher, tmp_path / "teacher")
    return tmp_path / "teacher"


def told(teacher: Path, table: str, **entries: object) -> None:
    """Adds entries to a table of the teacher's configuration."""
    path = teacher / "open_clip_config.json"
    config = json.loads(path.read_text())
    (config["model_cfg"][table] if table else config["model_cfg"]).update(entries)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("table", "entries", "said"),
    [
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs"),
        ("text_cfg", {"tokenizer_kwargs": {"cache_dir": "/"}}, "tokenizer_kwargs"),
        ("text_cfg", {"hf_tokenizer_name": "../elsewhere"}, "hf_tokenizer_name"),
        ("text_cfg", {"hf_tokenizer_name": "/etc"}, "hf_tokenizer_name"),
        ("text_cfg", {"hf_model_name": "~/model"}, "hf_model_name"),
        ("vision_cfg", {"timm_model_name": "hf-hub:other/model"}, "timm_model_name"),
        ("vision_cfg", {"timm_model_name": "resnet18", "timm_model_pretrained": True}, "timm_model_pretrained"),
        ("vision_cfg", {"layers": 10**9}, "layers"),
        ("vision_cfg", {"width": "x"}, "width"),
        ("vision_cfg", {"unheard_of": 1}, "unheard_of"),
        ("", {"custom_class": "os.system"}, "custom_class"),
        ("", {"embed_dim": -1}, "embed_dim"),
        ("vision_cfg", {"layers": 10**5}, "GiB"),
    ],
)
def test_a_teachers_configuration_says_shapes_and_names_only(
    teacher: Path, table: str, entries: dict[str, object], said: str
) -> None:
    read_config(teacher)
    told(teacher, table, **entries)
    with pytest.raises(InputError, match=said) as error:
        teacher_identity(TeacherConfig(model=f"local-dir:{teacher}"))
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_the_folder_runs_no_code_of_it(teacher: Path, tmp_path: Path) -> None:
    """With the name of the folder itself and a module in it, as transformers would load it."""
    (teacher / "evil.py").write_text(f"open({str(tmp_path / 'boom')!r}, 'w')\nclass T: pass\n")
    auto = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", None]}}
    (teacher / "tokenizer_config.json").write_text(json.dumps(auto))
    told(teacher, "text_cfg", hf_tokenizer_name="teacher")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: names code of its own"):
        read_config(teacher)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "spiece.model", "tokenizer.json", "bpe.codes"])
def test_tokenizer_and_vocabulary_files_are_part_of_a_teachers_identity(teacher: Path, name: str) -> None:
    cfg = TeacherConfig(model=f"local-dir:{teacher}")
    (teacher / name).write_text("{}")
    before = teacher_identity(cfg)
    (teacher / name).write_text('{"a": 1}')
    assert teacher_identity(cfg) != before
    (teacher / "README.md").write_text("about it")
    (teacher / name).write_text("{}")
    assert teacher_identity(cfg) == before


# -- photos, folders, videos ---------------------------------------------------------------------------------------


def test_a_sparse_photo_of_three_gigabytes_and_a_pipe_are_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(3 * 2**30)
    os.mkfifo(tmp_path / "b.jpg")
    with pytest.raises(BadSample, match=f"more than the {MAX_BYTES} that are read"):
        read_image(tmp_path / "a.jpg", 10**6)
    with pytest.raises(BadSample, match="no ordinary file"):
        read_image(tmp_path / "b.jpg", 10**6)


def test_a_folder_of_photos_that_leads_out_of_the_data_set_is_refused_and_its_root_may_lie_anywhere(
    fresh_tiny: Tiny, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(fresh_tiny.data, elsewhere)
    fresh_tiny.data.symlink_to(elsewhere)
    assert len(fresh_tiny.plan().train_data) == 12
    shutil.move(elsewhere / "JPEGImages", tmp_path / "photos")
    (elsewhere / "JPEGImages").symlink_to(tmp_path / "photos")
    with pytest.raises(InputError, match=r"JPEGImages: a link out of .*elsewhere"):
        _ = fresh_tiny.plan().train_data


def test_a_photo_that_is_a_link_to_itself_is_one_line(fresh_tiny: Tiny) -> None:
    photo = fresh_tiny.data / "JPEGImages/train01.jpg"
    photo.unlink()
    photo.symlink_to(photo.name)
    with pytest.raises(InputError, match=r"train01\.jpg"):
        fresh_tiny.run("extract")


def video(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=Fraction(5))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number, (height, width) in enumerate(sizes):
            jpeg = io.BytesIO()
            Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(jpeg, "JPEG")
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 5)
            container.mux(packet)
    (folder / "v.avi").write_bytes(buffer.getvalue())
    return folder / "v.avi"


def test_frames_are_measured_each_and_not_by_the_header_alone(tmp_path: Path) -> None:
    from stages.parts.data.video import frames

    assert len(list(frames(video(tmp_path, [(48, 64)] * 2), 10_000))) == 2
    with pytest.raises(InputError, match=r"frame 1 is 640 x 480 pixels, the video 64 x 48|can't be decoded"):
        list(frames(video(tmp_path, [(48, 64), (480, 640)]), 10_000))


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi"])
def test_a_playlist_under_a_videos_name_opens_no_neighbour(tmp_path: Path, name: str) -> None:
    pytest.importorskip("av")
    from stages.parts.data.video import VideoEncoder, frames

    encoder = VideoEncoder(Fraction(5), (48, 64, 3))
    encoder.add(np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "secret.mp4").write_bytes(encoder.finish())
    for text in ("ffconcat version 1.0\nfile secret.mp4\n", "#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="can't be decoded as a video"):
            list(frames(tmp_path / name, 10_000))


def test_a_mark_of_another_artifacts_seal_says_so(tiny: Tiny, tmp_path: Path) -> None:
    """A whole artifact moved under another kind's name is refused by what it says of itself."""
    tiny.run("extract")
    source = Path(str(tiny.plan().address("tokens")))
    shutil.copytree(source, tmp_path / "latent-12345678.zarr")
    with pytest.raises(StoreError, match="kind: 'tokens', not 'latent'"):
        Artifact(Location(str(tmp_path / "latent-12345678.zarr")), "latent").provenance()


def test_a_runs_mark_that_makes_no_sense_is_shown_as_nothing_and_refused(run: Location) -> None:
    run.put_mark("run.json", {"provenance": {"teacher": None}})
    assert [e.state for e in cache_tool.entries(str(run.parent.parent))] == ["complete"]
    with pytest.raises(StoreError, match=r"run\.json: damaged \(teacher: no table\)"):
        cache_tool.show(str(run.parent.parent), run.name)
    assert any("run.json: damaged" in f for f in cache_tool.verify(str(run.parent.parent), repair=True)["faults"])
    assert run.get("run.json") is None and run.get("complete.json") is None


def test_the_command_line_shows_escape_sequences_of_marks_and_names(run: Location, tmp_path: Path) -> None:
    shutil.copy(str(run.path) + "/complete.json", tmp_path / "x")
    run.put_mark("run.json", {"provenance": {"split": "\x1b]0;owned\x07", "teacher": {"model": "\u202egpj"}}})
    code, said = console(["cache", "list", "--artifacts", str(run.parent.parent)])
    assert code == 0 and "\x1b" not in said and "\u202e" not in said and r"\x1b]0;owned\x07" in said
