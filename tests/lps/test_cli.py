"""The command line: presets, settings, and one clear line with exit code 2 where something is wrong."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import torch
from lps import cli, data
from lps.experiments import checkpoint, config, run


def call(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def assert_refused(capsys, arguments, *words):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out, (code, out)
    assert err.count("\n") == 1, f"expected one line, got:\n{err}"
    for word in words:
        assert word in err, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "graph8c", "--backbon", "mlp"], ["backbon: unknown setting, did you mean backbone?"]),
        (["train", "graph8c", "zzz=1"], ["zzz: unknown setting, known are backbone, batch_size"]),
        (["train", "graph8c", "samples=many"], ["samples: expected a whole number, got 'many'"]),
        (["train", "exp_classify", "lr=fast"], ["lr: expected a number, got 'fast'"]),
        (["train", "exp_classify", "decay=perhaps"], ["decay: expected true or false, got 'perhaps'"]),
        (["train", "graph8c", "--preset", "tiny"], ["preset: expected one of paper, small, got 'tiny'"]),
        (["train", "graph8c", "samples"], ["samples: expected key=value"]),
        (["train", "graph8c", "--samples"], ["--samples: expected key=value"]),
        (["train", "graph9"], ["experiment: expected one of automorphism", "got 'graph9'"]),
        (["train", "exp_classify", "stand_in=8", "backbone=tree"], ["backbone: expected one of", "got 'tree'"]),
        (["train", "exp_classify", "stand_in=8", "group=magic"], ["group: expected one of", "got 'magic'"]),
        (["train", "exp_classify", "stand_in=8", "optimizer=sgd"], ["optimizer: expected one of adam, adamw"]),
        (["train", "exp_classify", "stand_in=8", "precision=fp8"], ["precision: expected one of fp32, bf16"]),
        (["train", "exp_classify", "stand_in=8", "batch_size=0"], ["batch_size: expected 1 or more, got 0"]),
        (["train", "exp_classify", "stand_in=8", "device=abacus"], ["device: expected", "abacus"]),
        (["train", "exp_classify", "stand_in=8", "device=mps"], ["device: expected", "mps"]),
        (["train", "exp_classify", "stand_in=8", "clip=-1"], ["clip: expected 0 or more, got -1.0"]),
        (["train", "exp_classify", "stand_in=8", "max_steps=-1"], ["max_steps: expected 0 or more, got -1"]),
        (["train", "exp_classify", "stand_in=8", "group_rate=-1"], ["group_rate: expected 0 or more, got -1.0"]),
        (["train", "exp_classify", "stand_in=8", "warmup_epochs=nan"], ["warmup_epochs: expected a finite number"]),
        (["train", "exp_classify", "stand_in=8", "score_layers=0"], ["score_layers: expected 1 or more, got 0"]),
        (["train", "exp_classify", "stand_in=-8"], ["stand_in: expected 4 graphs or more", "got -8"]),
        (["train", "pattern", "stand_in=3"], ["stand_in: expected 4 graphs or more", "got 3"]),
        (["train", "automorphism", "backbone=gnn"], ["backbone: expected one of mlp, gin_id, got 'gnn'"]),
        (
            ["train", "nbody", "train_count=2", "backbone=mlp"],
            ["backbone: expected one of transformer, gnn"],
        ),
        (["train", "nbody", "symmetry=S_n x Z(3)", "train_count=2"], ["symmetry: expected", "Z(3)"]),
        (["train", "nbody", "seed=-1"], ["seed: expected 0 to 4294967295, got -1"]),
        (["train", "nbody", "valid_count=0"], ["valid_count: expected 1 or more, got 0"]),
        (["train", "nbody", "heads=5"], ["heads: expected a divisor of hidden, 64, got 5"]),
        (["train", "nbody", "backbone=gnn", "heads=2"], ["heads: expected none, backbone=gnn has no use for it"]),
        (["train", "pattern", "stand_in=4", "backbone=gnn"], ["backbone: gnn takes graphs with order_in, order_out"]),
        (["train", "pattern", "backbone=bert", "weights=/nowhere"], ["weights: expected none, backbone=bert has"]),
        (["train", "pattern", "backbone=bert", "patch_dropout=0.5"], ["patch_dropout: expected none"]),
        (["train", "nbody", "neighbours=0"], ["neighbours: expected 1 or more, got 0"]),
        (["train", "nbody", "results=/nowhere/results.jsonl"], ["No such file or directory", "/nowhere/results.jsonl"]),
        (
            ["train", "nbody", "train_count=2", "out=/dev/null/run"],
            ["Not a directory", "/dev/null/run"],
        ),
        (["train", "automorphism", "plot=/nowhere/a.png"], ["No such file or directory", "/nowhere/a.png"]),
        (["train", "automorphism", "plot=a.jpgg"], ["plot: expected a file that ends in one of", "png", "'a.jpgg'"]),
        (["train", "exp_classify", "data=/nowhere"], ["data: expected a folder, /nowhere is none"]),
    ],
)
def test_wrong_settings_are_one_line_and_code_2(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setenv("LPS_CACHE", str(tmp_path))
    monkeypatch.setattr(data.particles, "FRAME", 1)
    assert_refused(capsys, arguments, *words)


def test_two_runs_in_one_folder_are_one_line_and_code_2(capsys, tmp_path):
    with checkpoint.claim(tmp_path):
        arguments = ["train", "exp_classify", "stand_in=8", "preset=paper_gin", f"out={tmp_path}"]
        assert_refused(capsys, arguments, f"{tmp_path}: expected a folder that no other run is using")


@pytest.mark.parametrize("name", ["graph8c", "exp", "exp_classify", "pattern", "peptides_func", "pcqm_contact"])
def test_missing_data_is_one_line_and_code_2(capsys, monkeypatch, name):
    monkeypatch.delenv("LPS_DATA", raising=False)
    assert_refused(capsys, ["train", name], f"lps {name}: data: expected a folder", "LPS_DATA")


def test_wrong_shapes_are_one_line_and_code_2(capsys, monkeypatch):
    large = data.exp_like(8, n=70)
    monkeypatch.setattr(data, "exp_like", lambda count: large)
    assert_refused(capsys, ["train", "exp_classify", "stand_in=8", "batch_size=2"], "lps exp_classify:", "64", "70")


def test_usage(capsys):
    assert call(capsys)[0] == 2
    assert call(capsys, "fly")[0] == 2
    for asked in (["--help"], ["train", "--help"]):
        code, out, _ = call(capsys, *asked)
        assert code == 0 and "lps train" in out
    code, out, _ = call(capsys, "list")
    assert code == 0 and out.split() == list(run.NAMES)


def test_shows_settings(capsys):
    code, out, _ = call(capsys, "train", "nbody", "--help")
    assert code == 0 and "samples=20" in out and "paper_gnn" in out


def test_prints_one_line(capsys):
    few = ["stand_in=8", "preset=paper_gin", "max_steps=1", "samples=1", "eval_samples=1"]
    code, out, err = call(capsys, "train", "exp_classify", *few)
    assert code == 0 and out.count("\n") == 1 and json.loads(out)["steps"] == 1 and not err


def test_what_diverged_is_null(capsys, tmp_path):
    file = tmp_path / "results.jsonl"
    few = ["stand_in=8", "preset=paper_gin", "samples=1", "eval_samples=1", "batch_size=2", "epochs=2", "lr=1e30"]
    few += ["warmup_epochs=0", "clip=0", f"out={tmp_path / 'run'}", f"results={file}"]
    code, out, err = call(capsys, "train", "exp_classify", *few)
    assert code == 0, err
    for text in (out, file.read_text(), (tmp_path / "run" / "results.jsonl").read_text()):
        assert json.loads(text, parse_constant=pytest.fail)["test"] == {"loss": None, "accuracy": None}


def test_a_command_is_one_for_a_shell(tmp_path):
    given = ["samples=2", "most_samples=30", "backbone=gin_id", f"plot={tmp_path / 'a b.png'}"]
    result = run.run("automorphism", given)
    assert shlex.split(result["command"]) == ["python", "-m", "lps.experiments.automorphism", *given]
    assert set(result["outputs"]) == {"ps, k = 2", "ps, k = 30", "ps, k = 1", "canonical"}


def test_both_ways_to_write_a_setting_are_one(capsys, tmp_path):
    file = tmp_path / "results.jsonl"
    code, out, err = call(
        capsys, *["train", "automorphism", "--preset", "small", "--most-samples", "100", "--samples", "2"]
    )
    assert code == 0, err
    code, same, _ = call(
        capsys, *["train", "automorphism", "preset=small", "most_samples=100", "--samples=2", "--results", str(file)]
    )
    first, second = json.loads(out), json.loads(same)
    assert first["outputs"] == second["outputs"] and first["config"]["samples"] == 2
    assert json.loads(file.read_text()) == second
    assert second["versions"]["torch"] == torch.__version__ and second["wall_seconds"] > 0


def test_runs_as_a_module():
    command = [sys.executable, "-m", "lps.experiments.graph8c", "no=1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.startswith("lps graph8c: no: unknown setting") and not done.stdout


def test_dashes_and_types():
    presets = {"paper": {"lr": 1.0, "flag": False, "max_steps": 3, "out": ""}, "small": {"max_steps": 1}}
    parsed = config.parse(["--max-steps", "7", "flag=yes", "out=a=b", "--preset=small", "lr=1e-3"], presets)
    assert parsed == {"lr": 1e-3, "flag": True, "max_steps": 7, "out": "a=b"}


def test_negative_values_are_values():
    assert config.parse(["--tau", "-1"], {"paper": {"tau": 1.0}}) == {"tau": -1.0}


def test_interruption_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.find("graph8c"), "run", interrupted)
    code, out, err = call(capsys, "train", "graph8c")
    assert code == 130 and not out and "the same command with the same out= goes on" in err
