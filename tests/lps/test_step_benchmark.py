"""The benchmark of whole steps compares what it times: this library's step is the published method's, in float64."""

import pytest
import torch

pytest.importorskip("timm")

from benchmarks.lps import step


@pytest.mark.parametrize("setting", step.SETTINGS, ids=lambda setting: setting.label)
def test_a_step_is_that_of_the_published_method(setting):
    row = step.measure(step.small(setting), rounds=2, budget=0)
    assert row["rounds"] == 2 and set(row["ratio"]) == {"published", "dense"}
    assert all(0 < share < 1 for share in row["share"].values())


def test_a_difference_is_found(monkeypatch):
    """The comparison can fail."""
    setting = step.small(step.SETTINGS[2])
    batch = step.batch_of(setting)
    step.compare(setting, batch)
    published = step.models_of

    def other(setting):
        found = published(setting)
        with torch.no_grad():
            found[step.PUBLISHED].backbone.layers[0].weight[0, 0] += 1e-3
        return found

    monkeypatch.setattr(step, "models_of", other)
    with pytest.raises(AssertionError, match="published: loss is off"):
        step.compare(setting, batch)
