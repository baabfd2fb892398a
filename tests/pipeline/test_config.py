"""Claims about presets: what is read, what is refused, and in which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cache.errors import InputError
from pipeline.config import RENAMED, Config, as_toml, load_config, preset_name, shipped, table_type

LEAST = '[data]\nlayout = "voc"\nroot = "./data"\nvocabulary = "voc"\n'


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def refused(preset: str, *overrides: str) -> str:
    """The one line that a preset is refused with."""
    with pytest.raises(InputError) as caught:
        load_config(preset, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_typos_get_the_nearest_name(tmp_path: Path) -> None:
    for text, words in (("[train]\nbach = 4\n", "key; nearest: batch;"), ("[trian]\n", "table; nearest: train;")):
        assert words in refused(written(tmp_path / "a.toml", LEAST + text))
    with pytest.raises(InputError, match=r"no such file or shipped preset; nearest: .*coco_stuff"):
        load_config("coco_stuf")


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_preset_is_valid(name: str) -> None:
    assert isinstance(load_config(name), Config)
    assert preset_name(name) == name


@pytest.mark.parametrize("name", shipped())
def test_settings_written_as_a_preset_are_the_same_settings(name: str, tmp_path: Path) -> None:
    told = ("train.lr=1e-7", "mine-latent.windows=[3, 5]", 'student.weights="é \\" 😀.pth"', "teacher.prompts='']'")
    config = load_config(name, told)
    assert load_config(written(tmp_path / "elsewhere/p.toml", as_toml(config))) == config


def test_paths_of_a_written_preset_are_absolute_and_words_stay_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imagenet").mkdir()  # a folder of that name is no weights
    (tmp_path / "data").mkdir()
    written(tmp_path / "w.pth", "")
    monkeypatch.chdir(tmp_path)
    preset = written(tmp_path / "p.toml", LEAST)
    for weights, expected in (("imagenet", "imagenet"), ("w.pth", str(tmp_path / "w.pth"))):
        config = load_config(preset, ["data.root='data'", f"student.weights='{weights}'"])
        again = load_config(written(tmp_path / "run/p.toml", as_toml(config)))
        assert (again.student.weights, again.data.root) == (expected, str(tmp_path / "data"))


def test_a_preset_states_only_what_differs_from_the_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path / "p.toml", LEAST + "[train]\nbatch = 3\n"))
    assert config.train.batch == 3
    assert config.train.iterations == Config.model_fields["train"].annotation().iterations


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nbatchsize = 8\n", ("p.toml", "[train] batchsize", "known keys", "iterations", "batch,")),
        ("[trian]\nbatch = 8\n", ("p.toml", "[trian]", "unknown table", "mine-latent", "latent-embedding")),
        ("[train]\nbatch = 'many'\n", ("p.toml", "[train] batch", "'many'", "integer")),
        ("[train]\nbatch = 2.5\n", ("p.toml", "[train] batch", "2.5", "integer")),
        ("[train]\nphotometric = 1\n", ("p.toml", "[train] photometric", "boolean")),
        ("[train]\nlr = 0\n", ("p.toml", "[train] lr", "greater than 0")),
        ("[train]\nlr = nan\n", ("p.toml", "[train] lr", "finite")),
        ("[train]\nlr = inf\n", ("p.toml", "[train] lr", "finite")),
        ("[eval]\nseen_bias = nan\n", ("p.toml", "[eval] seen_bias", "finite")),
        ("[eval]\nmode = 'tiled'\n", ("p.toml", "[eval] mode", "'tiled'", "'whole' or 'slide'")),
        ("[eval]\ncrop = 64\nstride = 65\n", ("p.toml", "[eval]", "stride", "crop")),
        (
            "[train]\nbatch = 4\ngrad_accumulation_steps = 3\n",
            ("p.toml", "[train]", "grad_accumulation_steps", "batch"),
        ),
        ("[train]\niterations = 100\n", ("p.toml", "[train]", "warmup = 1500 must be below iterations = 100")),
        ("[views]\nscale = [2.0, 0.5]\n", ("p.toml", "[views] scale", "least <= greatest")),
        ("[latent-embedding]\ncalibrator = 'mlp'\n", ("p.toml", "[latent-embedding]", "calibrator", "inputs")),
        ("[mine-latent]\nwindows = []\n", ("p.toml", "[mine-latent] windows", "at least 1")),
        ("[mine-latent]\nwindows = [8, 0]\n", ("p.toml", "[mine-latent] windows", "greater than 0")),
        ("[train]\nseed = 2024-01-01\n", ("p.toml", "not a number, string, boolean or list")),
    ],
)
def test_a_bad_value_is_refused_with_file_table_and_key(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    message = refused(written(tmp_path / "p.toml", LEAST + text))
    for word in words:
        assert word in message, message
    assert "] :" not in message and "]  =" not in message, message


def test_top_level_mistakes_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "[data]: " in refused(written(tmp_path / "none.toml", "[train]\nbatch = 8\n"))
    assert "[train]" in refused(written(tmp_path / "scalar.toml", "train = 3\n" + LEAST))
    assert "not readable as TOML" in refused(written(tmp_path / "broken.toml", "[data\n"))
    assert "no such file" in refused(str(tmp_path / "absent.toml"))
    assert "context_setr_b" in refused("vocc")  # the shipped ones are named
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    assert "not readable as TOML" in refused(str(tmp_path / "latin.toml"))


def test_extends_starts_from_another_preset_table_by_table(tmp_path: Path) -> None:
    written(tmp_path / "base.toml", LEAST + "[train]\nbatch = 8\nwarmup = 7\n")
    config = load_config(written(tmp_path / "child.toml", 'extends = "base.toml"\n[train]\nbatch = 2\n'))
    assert (config.train.batch, config.train.warmup) == (2, 7)


def test_extends_finds_shipped_presets_by_name(tmp_path: Path) -> None:
    config = load_config(written(tmp_path / "child.toml", 'extends = "voc_setr_b"\n[train]\nbatch = 2\n'))
    assert config == load_config("voc_setr_b", ["train.batch=2"])


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "a.toml", 'extends = "b.toml"\n')
    assert "goes in a circle" in refused(written(tmp_path / "b.toml", 'extends = "a.toml"\n'))
    written(tmp_path / "x/c.toml", 'extends = "../y/d.toml"\n')  # every round writes the path in another way
    assert "goes in a circle" in refused(written(tmp_path / "y/d.toml", 'extends = "../x/c.toml"\n'))


def test_extends_must_name_a_preset(tmp_path: Path) -> None:
    assert "extends" in refused(written(tmp_path / "a.toml", "extends = 3\n" + LEAST))
    assert "no such file or shipped preset" in refused(written(tmp_path / "b.toml", 'extends = "nope"\n' + LEAST))
    assert "nope.toml" in refused(written(tmp_path / "c.toml", 'extends = "nope.toml"\n' + LEAST))


def test_paths_are_relative_to_the_file_that_says_them(tmp_path: Path) -> None:
    base = LEAST + '[teacher]\nmodel = "local-dir:../clip"\n[student]\nweights = "./w.pth"\n'
    written(tmp_path / "a/base.toml", base)
    config = load_config(written(tmp_path / "b/child.toml", 'extends = "../a/base.toml"\n[data]\nval = "./v"\n'))
    assert config.data.root == str(tmp_path / "a/data")
    assert config.teacher.model == f"local-dir:{tmp_path / 'clip'}"
    assert config.student.weights == str(tmp_path / "a/w.pth")
    assert config.data.val == str(tmp_path / "b/v")


def test_set_overrides_with_toml_values_and_bare_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    preset = written(tmp_path / "p.toml", LEAST)
    config = load_config(
        preset,
        [
            "train.batch=8",
            " train.lr = 1e-3",
            "distill.loss=cosine",
            'eval.mode="slide"',
            "mine_latent.windows=[5, 10]",
            "latent-embedding.enabled=false",
            "data.root=./elsewhere",
        ],
    )
    assert (config.train.batch, config.train.lr, config.distill.loss, config.eval.mode) == (8, 1e-3, "cosine", "slide")
    assert config.mine_latent.windows == (5, 10)
    assert not config.latent_embedding.enabled
    assert config.data.root == str(tmp_path / "elsewhere")  # relative to where the command is given


def test_the_last_set_wins(tmp_path: Path) -> None:
    preset = written(tmp_path / "p.toml", LEAST)
    assert load_config(preset, iter(["train.batch=8", "train.batch=4"])).train.batch == 4


@pytest.mark.parametrize("override", ["train.batch", "batch=8", "=8", ".batch=8", "train.=8", ""])
def test_a_malformed_set_is_refused_with_an_example(tmp_path: Path, override: str) -> None:
    assert "table.key=value" in refused(written(tmp_path / "p.toml", LEAST), override)


def test_set_is_as_strict_as_the_file_and_says_that_it_was_meant(tmp_path: Path) -> None:
    preset = written(tmp_path / "p.toml", LEAST)
    message = refused(preset, "train.batchsize=8")
    assert "p.toml with --set" in message and "known keys" in message
    assert "--set" in refused(preset, "train.batch=eight")
    with pytest.raises(InputError, match="with --set"):
        load_config(preset, iter(["train.batch=0"]))


def test_several_faults_are_counted(tmp_path: Path) -> None:
    message = refused(written(tmp_path / "p.toml", LEAST + "[train]\nbatch = 0\nlr = -1.0\n"))
    assert message.endswith("(and 1 more)")


def test_reading_a_preset_and_planning_need_no_torch() -> None:
    code = (
        "import sys; from pipeline.config import load_config; import pipeline.plan, pipeline.cli, pipeline.text;"
        "load_config('voc'); heavy = {'torch', 'open_clip', 'faiss', 'timm', 'segmentation_models_pytorch',"
        "'matplotlib', 'scipy'} & set(sys.modules); print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("table", "old", "new"), [(t, o, n) for t, keys in RENAMED.items() for o, n in keys.items()])
def test_a_key_of_an_older_version_is_refused_with_its_new_name(table: str, old: str, new: str) -> None:
    with pytest.raises(InputError, match=rf"\[{table}\] {old}: is called {new} now"):
        load_config("demo", [f"{table}.{old}=1"])
    assert new in table_type(table).model_fields and old not in table_type(table).model_fields


@pytest.mark.parametrize("name", ["voc", "coco_stuff", "context"])
def test_the_papers_settings_stay_reachable(name: str) -> None:
    paper, own = load_config(f"{name}_paper"), load_config(name)
    assert (paper.distill.negatives, paper.distill.bank_size, paper.teacher.recipe) == ("image", 24, "vanilla")
    assert (paper.latent_embedding.calibrator, paper.latent_embedding.memory) == ("transformer", "both")
    assert (paper.pixel_loss.alpha, paper.pixel_loss.beta) == (1.0, 10.0)
    assert (paper.train, paper.data, paper.student, paper.views) == (own.train, own.data, own.student, own.views)
