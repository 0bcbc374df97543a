"""Training: it learns, repeats to the bit, stops early, resumes to the bit, and never looks ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.panel import Panel
from data.splits import Span
from lstm.kernels import library, using
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel, Scaler
from lstm.training.checkpoint import EpochLoss
from lstm.training.fit import Fit, Interrupted, fit, run
from lstm.training.predict import predict
from lstm.training.recipe import TrainingConfig
from lstm.training.trainer import Trainer, TrainingDiverged
from lstm.windows import Windows, newest, targets, windows

MakePanel = Callable[..., Panel]
CPU = torch.device("cpu")
MODEL = ForecasterConfig(
    cell="lstm",
    hidden_size=8,
    num_layers=2,
    dropout=0.2,
    segment_length=12,
    lookback=48,
    horizon=12,
    quantiles=(0.1, 0.5, 0.9),
    columns=2,
    calendar_features=18,
)
TRAINING = TrainingConfig(learning_rate=1e-2, batch_size=64, max_epochs=6, windows_per_epoch=256, seed=3)


class Sample:
    """A panel of two series, its windows, and a fit with fewer words."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.scaler = Scaler.fit(panel, 499)
        self.scaled: ScaledPanel = self.scaler.scale(panel, 12)
        self.train = windows(panel, Span(0, 499), 48, 12)
        self.validation = windows(panel, Span(500, 599), 48, 12)

    def fit(
        self,
        training: TrainingConfig = TRAINING,
        validated: bool = True,
        model: ForecasterConfig = MODEL,
        **options: object,
    ) -> Fit:
        validation = self.validation if validated else None
        return fit(model, training, self.scaled, self.train, validation, device=CPU, **options)  # type: ignore[arg-type]

    def forecast(self, state: dict[str, Tensor], chosen: Windows) -> np.ndarray:
        return predict(MODEL, state, self.scaled, chosen, CPU)


@pytest.fixture
def sample(make_panel: MakePanel) -> Sample:
    return Sample(make_panel(steps=600, series=("a", "b"), covariates=("wind",), missing=0.05))


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_it_learns_a_daily_wave(sample: Sample) -> None:
    result = sample.fit(replace(TRAINING, max_epochs=20, learning_rate=2e-2))
    assert result.best_loss is not None
    assert result.best_loss < 0.08 < result.history[0].train
    y_WH = sample.scaler.scale_target(targets(sample.panel, sample.validation, 12), sample.validation.series)
    forecast_WHQ = sample.forecast(result.state, sample.validation)
    assert np.nanmean(np.abs(forecast_WHQ[..., 1] - y_WH)) < 0.2


def test_the_same_arguments_give_the_same_bits_whatever_torch_drew_before(sample: Sample) -> None:
    one = sample.fit()
    torch.rand(17)
    before = torch.get_rng_state()
    two = sample.fit()
    assert same(one.state, two.state)
    assert one.history == two.history
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(one.state, sample.fit(replace(TRAINING, seed=4)).state)


def test_a_changed_future_changes_nothing(sample: Sample) -> None:
    values = sample.panel.values.copy()
    for offset in sample.panel.offsets[1:]:
        values[offset - 100 : offset] = 1e6
    other = Sample(replace(sample.panel, values=values))
    epochs = {"validated": False, "epochs": 2}
    assert same(sample.fit(**epochs).state, other.fit(**epochs).state)  # type: ignore[arg-type]


def test_early_stopping_keeps_the_best_weights(make_panel: MakePanel) -> None:
    noise = Sample(make_panel(steps=600, series=("a", "b"), covariates=("wind",), noise=5.0))
    training = replace(TRAINING, learning_rate=0.2, max_epochs=30, patience=2)
    result = noise.fit(training)
    losses = [losses.validation for losses in result.history]
    assert result.best_loss == min(losses)  # type: ignore[type-var]
    assert result.best_epoch == losses.index(result.best_loss) + 1
    assert len(losses) == result.best_epoch + 2 < 30
    again = noise.fit(training, epochs=result.best_epoch)
    assert same(again.state, result.state)


def test_without_validation_exactly_the_epochs_asked_for_on_the_same_schedule(sample: Sample) -> None:
    result = sample.fit(validated=False, epochs=2)
    assert len(result.history) == result.best_epoch == 2
    assert result.best_loss is None
    assert result.history[-1].validation is None
    assert len(sample.fit(validated=False).history) == TRAINING.max_epochs
    validated = sample.fit(epochs=2)
    assert [losses.train for losses in result.history] == [losses.train for losses in validated.history]


def test_an_epoch_draws_no_more_windows_than_asked_and_other_ones_each_time(sample: Sample) -> None:
    few = sample.fit(replace(TRAINING, windows_per_epoch=64), epochs=1, validated=False)
    many = sample.fit(replace(TRAINING, windows_per_epoch=10**6), epochs=1, validated=False)
    assert not same(few.state, many.state)
    assert same(
        many.state, sample.fit(replace(TRAINING, windows_per_epoch=10**7), epochs=1, validated=False).state
    )


def test_the_kept_weights_are_the_average(sample: Sample) -> None:
    followed = sample.fit(replace(TRAINING, average_decay=0.0), epochs=2, validated=False)
    averaged = sample.fit(replace(TRAINING, average_decay=0.9), epochs=2, validated=False)
    assert followed.history == averaged.history
    assert not same(followed.state, averaged.state)


def test_resumed_to_the_bit(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "checkpoint.safetensors"

    class Stop(Exception):
        pass

    def stop(epoch: int, losses: EpochLoss) -> None:
        if epoch == 3:
            raise Stop

    with pytest.raises(Stop):
        sample.fit(checkpoint=path, on_epoch=stop)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    calls: list[tuple[int, EpochLoss]] = []
    resumed = sample.fit(checkpoint=path, on_epoch=lambda epoch, losses: calls.append((epoch, losses)))
    whole = sample.fit()
    assert same(resumed.state, whole.state)
    assert resumed == replace(whole, state=resumed.state)
    assert calls == list(enumerate(whole.history, start=1))


def test_a_finished_training_is_returned_without_training(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    one = sample.fit(checkpoint=path, epochs=2)
    written = path.stat().st_mtime_ns
    two = sample.fit(checkpoint=path, epochs=2)
    assert same(one.state, two.state)
    assert path.stat().st_mtime_ns == written


def test_a_checkpoint_that_is_damaged_or_of_another_training_costs_only_time(
    sample: Sample, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another seed, other windows, fewer epochs, other data of the same shape: none may carry on from it."""
    path = tmp_path / "checkpoint.safetensors"
    sample.fit(checkpoint=path, epochs=2)
    kept = path.read_bytes()
    values = sample.scaled.values + np.float32(0.5)
    options: list[dict[str, Any]] = [
        {"training": replace(TRAINING, seed=9), "epochs": 2},
        {"validated": False, "epochs": 2},
        {"epochs": 1},
        {"epochs": 2},
        {"epochs": 2},
    ]
    for number, each in enumerate(options):
        path.write_bytes(kept[:-100] if number == 3 else kept)
        if number == 4:
            sample.scaled = replace(sample.scaled, values=values)
        caplog.clear()
        again = sample.fit(checkpoint=path, **each)
        assert "starts over" in caplog.text
        assert same(again.state, sample.fit(**each).state)
        assert len(again.history) == each["epochs"]


def test_a_loss_that_is_no_number_ends_the_training(sample: Sample) -> None:
    values = sample.scaled.values.copy()
    values[100:300] = np.inf
    sample.scaled = replace(sample.scaled, values=values)
    with pytest.raises(TrainingDiverged, match=r"epoch 1: .* learning rate below 0.01"):
        sample.fit()


def test_no_windows_is_an_error(sample: Sample) -> None:
    none = windows(sample.panel, Span(0, 10), 48, 12)
    for train, validation in ((none, None), (sample.train, none)):
        with pytest.raises(ValueError, match="no windows"):
            fit(MODEL, TRAINING, sample.scaled, train, validation, device=CPU)


def test_forecasts_do_not_depend_on_the_batch_or_on_the_past_before_the_lookback(sample: Sample) -> None:
    state = sample.fit(epochs=1).state
    y_WHQ = sample.forecast(state, sample.validation)
    assert y_WHQ.shape == (len(sample.validation), 12, 3)
    assert y_WHQ.dtype == np.float32
    assert (np.diff(y_WHQ, axis=-1) > 0).all()
    small = predict(MODEL, state, sample.scaled, sample.validation, CPU, batch_size=7)
    np.testing.assert_allclose(small, y_WHQ, atol=1e-5)


def test_forecast_of_the_newest_windows_and_of_none(sample: Sample) -> None:
    state = sample.fit(epochs=1).state
    before = torch.get_rng_state()
    assert sample.forecast(state, newest(sample.panel, 48)).shape == (2, 12, 3)
    assert sample.forecast(state, windows(sample.panel, Span(0, 10), 48, 12)).shape == (0, 12, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_network_are_refused(sample: Sample) -> None:
    state = sample.fit(epochs=1).state
    with pytest.raises(RuntimeError, match="size mismatch"):
        predict(replace(MODEL, hidden_size=4), state, sample.scaled, sample.validation, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_learns_the_same_wave(sample: Sample) -> None:
    training = replace(TRAINING, max_epochs=12)
    cuda = torch.device("cuda")
    result = fit(MODEL, training, sample.scaled, sample.train, sample.validation, device=cuda)
    assert result.best_loss is not None
    assert result.best_loss < 0.12
    assert all(value.device == CPU for value in result.state.values())


@pytest.mark.skipif(not library.widths(), reason="the native kernel is not built here")
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_training_ends_alike_on_the_native_kernel_and_on_torchs(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, cell: Any, precision: str
) -> None:
    """Same seed, to the end: validation losses within 1 %, in mixed precision too where there is such."""
    monkeypatch.setenv("NIGHTCAST_PRECISION", precision)
    losses = []
    for kernel in ("native", "torch"):
        with using(kernel):  # type: ignore[arg-type]
            losses.append(
                sample.fit(replace(TRAINING, learning_rate=3e-3), model=replace(MODEL, cell=cell)).best_loss
            )
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize(
    ("error", "is_kept"), [(Interrupted, True), (KeyboardInterrupt, True), (ValueError, False)]
)
def test_a_checkpoint_that_is_not_due_is_written_for_what_goes_on(
    sample: Sample, tmp_path: Path, error: type[BaseException], is_kept: bool
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    trainer = Trainer(MODEL, TRAINING, sample.scaled, sample.train, sample.validation, CPU, None)

    def stop(epoch: int, losses: EpochLoss) -> None:
        assert not path.exists()
        if epoch == 2:
            raise error

    with pytest.raises(error):
        run(trainer, path, stop, pause=1e9)
    assert path.exists() == is_kept


def test_a_checkpoint_that_cannot_be_written_does_not_hide_the_interruption(
    sample: Sample, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    trainer = Trainer(MODEL, TRAINING, sample.scaled, sample.train, sample.validation, CPU, None)

    def stop(epoch: int, losses: EpochLoss) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        run(trainer, tmp_path / "file" / "checkpoint", stop, pause=1e9)
    assert "could not be written" in caplog.text
