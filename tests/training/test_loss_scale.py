import math

import pytest
import torch

from training import loss_scale
from training.loss_scale import LossScale, failed_steps

INF, NAN = math.inf, math.nan


def test_the_rule_is_that_of_pytorchs_grad_scaler(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    scaler = torch.amp.GradScaler("cpu", growth_interval=3)
    scaler.scale(torch.ones(()))  # makes its tensors
    scale = LossScale()
    for finite in (True, True, True, False, True, True, False, False, True, True, True, True, True, True):
        scaler._per_optimizer_states[0]["found_inf_per_device"] = {
            "cpu": torch.tensor(0.0 if finite else 1.0)
        }
        scaler.update()
        scale = scale.after(finite)
        assert scale.scale == scaler.get_scale()
        assert scale.good_steps == scaler._get_growth_tracker()
    assert scale == LossScale(2.0**16, 0, 3)


def test_the_scale_falls_to_one_and_no_further():
    assert LossScale(1.0, 5, 7).after(False) == LossScale(1.0, 0, 8)


@pytest.mark.parametrize(
    ("norms", "scale", "failed", "after"),
    [
        ((1.0, INF, NAN), None, [1, 2], None),
        ((1.0, INF, 1.0), LossScale(4.0), [], LossScale(2.0, 1, 1)),
        ((INF, INF, INF), LossScale(4.0), [2], LossScale(1.0, 0, 3)),
    ],
)
def test_only_what_no_smaller_scale_can_mend_is_a_failure(norms, scale, failed, after):
    assert failed_steps(norms, scale) == (failed, after)
