"""The lines that a run writes while it trains."""

import json

from nml_ray.data.loader import LoaderTimers
from nml_ray.pretrain import telemetry


def test_waiting_reading_decoding_and_copying_are_separate_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(telemetry, "EVERY_SECONDS", 0.0)
    timers = LoaderTimers()
    lines = telemetry.Telemetry([tmp_path], timers, batch=32)
    timers.wait, timers.read, timers.decode, timers.copy = 0.25, 1.5, 40.0, 0.125
    lines.step(7, 1, 0.01, [2.5])
    lines.close()
    line = json.loads((tmp_path / "telemetry.jsonl").read_text())
    seconds = [line[f"{name}_seconds"] for name in ("wait", "read", "decode", "copy")]
    assert seconds == [0.25, 1.5, 40.0, 0.125]
    assert (line["step"], line["epoch"], line["loss"]) == (7, 1, 2.5)
    assert line["data_wait_share"] > 0
