"""`timar bench`: sections run in processes of their own, and what they measure is written."""

import json

import torch

from timar_ros.cli import main


def test_sections_are_printed_and_written_with_the_machine(tmp_path, capsys):
    out = tmp_path / "deep" / "bench.json"
    assert main(["bench", "--only", "parity", "cuda", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["machine"]["cores"] >= 1
    assert written["parity"]["passed"] is True
    assert 0 < written["parity"]["case published, z"] < 1e-4
    if not torch.cuda.is_available():
        assert written["cuda"] == {"skipped": "no CUDA device"}
    said = capsys.readouterr().out
    assert "case guided, motion" in said and f"written to {out}" in said


def test_a_section_that_fails_is_named_and_the_others_are_kept(tmp_path, monkeypatch, capfd):
    from timar_ros.bench import command

    monkeypatch.setitem(command.SECTIONS, "default", ("timar_ros.bench.no_such_module", 1))
    out = tmp_path / "bench.json"
    assert main(["bench", "--only", "default", "cuda", "--out", str(out)]) == 1
    assert "section default ended with exit code 1" in capfd.readouterr().err
    assert "cuda" in json.loads(out.read_text())
