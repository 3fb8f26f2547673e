"""The plots of a training report, each as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hlserve.report.drawing import BLUE, FAINT, GREEN, INK, ORANGE, PINK, drawing
from hlserve.report.health import relative_gradient
from hlserve.report.learning import (
    Calibration,
    Epoch,
    Interval,
    LayerHealth,
    LearningCurve,
    Metric,
    Regression,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY_EPOCHS = 40  # from which markers would only be a thicker line
_BAR_INCHES = 0.3


def loss_plot(epochs: Sequence[Epoch], best_epoch: int | None) -> str:
    """Training and validation loss by epoch."""
    with drawing("loss", "Loss by epoch, training and validation") as made:
        (axes,) = made.axes
        _line(axes, epochs, [e.train_loss for e in epochs], "training", BLUE, dashed=True)
        _line(axes, epochs, [e.validation_loss for e in epochs], "validation", ORANGE)
        _finish(axes, "Loss", "mean over the rows", epochs, best_epoch)
    return made.svg


def metric_plot(
    epochs: Sequence[Epoch], best_epoch: int | None, metric: Metric, train: Interval | None
) -> str:
    """The validation metric by epoch; the training rows' after the training as a line."""
    factor = 100 if metric.is_share else 1
    with drawing("metric", f"{metric.name} by epoch") as made:
        (axes,) = made.axes
        values = [
            None if e.validation_metric is None else factor * e.validation_metric for e in epochs
        ]
        _line(axes, epochs, values, "validation", ORANGE)
        if train is not None:
            level = 2 * [factor * train.estimate]
            ends = [epochs[0].epoch, epochs[-1].epoch]
            axes.plot(ends, level, color=BLUE, linestyle="--", label="training, kept weights")
        unit = "% of the rows" if metric.is_share else "in units of the target"
        _finish(axes, _capital(metric.name), unit, epochs, best_epoch)
    return made.svg


def learning_rate_plot(epochs: Sequence[Epoch], best_epoch: int | None) -> str:
    """The learning rate of every epoch's last step."""
    with drawing("learning-rate", "Learning rate by epoch") as made:
        (axes,) = made.axes
        _line(axes, epochs, [e.learning_rate for e in epochs], "learning rate", GREEN)
        _finish(axes, "Learning rate", "at the end of the epoch", epochs, best_epoch)
    return made.svg


def learning_curve_plot(curve: LearningCurve, metric: Metric | None) -> str:
    """The score over the number of training rows, with 95 % intervals."""
    factor = 100 if metric is not None and metric.is_share else 1
    name = metric.name if metric else "loss"
    with drawing("learning-curve", f"{name} over training rows", height=3.4) as made:
        (axes,) = made.axes
        rows = [point.rows for point in curve.points]
        # Side by side, so that no interval hides another.
        for part, color, style, aside in (
            ("train", BLUE, "s--", 0.985),
            ("validation", ORANGE, "o-", 1.015),
        ):
            scores = [getattr(point, part) for point in curve.points]
            middle = np.array([factor * s.estimate for s in scores])
            ends = np.array([[factor * s.low, factor * s.high] for s in scores]).T
            label = "training" if part == "train" else "validation"
            x = aside * np.array(rows)
            axes.errorbar(
                x, middle, np.abs(ends - middle), fmt=style, color=color, capsize=4, label=label
            )
        axes.set_xscale("log")
        axes.set_xticks(
            rows, [f"{r:,}\n{p.share:.0%}" for r, p in zip(rows, curve.points, strict=True)]
        )
        axes.minorticks_off()
        axes.set_xlabel("training rows, and their share of all (log scale)")
        axes.set_ylabel("% of the rows" if factor == 100 else "mean over the rows")
        axes.set_title(f"{_capital(name)} over training rows")
        axes.legend()
    return made.svg


def health_plot(layers: Sequence[LayerHealth]) -> str:
    """Spread of activations by layer, and relative size of gradients by layer."""
    trained = [layer for layer in layers if relative_gradient(layer)]
    height = 1.2 + _BAR_INCHES * max(len(layers), 2)
    with drawing("layers", "Activations and gradients by layer", n_axes=2, height=height) as made:
        left, right = made.axes
        _bars(left, [x.name for x in layers], [x.std for x in layers], BLUE)
        left.set_title("Spread of activations")
        left.set_xlabel("standard deviation (log scale)")
        gradients = [relative_gradient(layer) or 0.0 for layer in trained]
        _bars(right, [x.name for x in trained], gradients, GREEN)
        right.set_title("Gradient relative to weights")
        right.set_xlabel("RMS of gradient / RMS of weights (log scale)")
    return made.svg


def regression_plot(result: Regression, number: int) -> str:
    """Predictions against targets, and how the residuals are spread."""
    alt = f"Predicted against true {result.output}, and residuals"
    with drawing(f"regression-{number}", alt, n_axes=2, height=3.8) as made:
        left, right = made.axes
        targets, predictions = np.array(result.targets), np.array(result.predictions)
        low = float(min(targets.min(), predictions.min()))
        high = float(max(targets.max(), predictions.max()))
        left.plot([low, high], [low, high], color=INK, linestyle="--", linewidth=1, label="perfect")
        left.scatter(targets, predictions, s=12, color=BLUE, alpha=0.5, linewidths=0)
        left.set_title("Predicted against true")
        left.set_xlabel("true, in the target's units")
        left.set_ylabel("predicted, in the target's units")
        left.legend()
        right.hist(predictions - targets, bins=30, color=BLUE, alpha=0.8)
        right.axvline(0, color=INK, linestyle="--", linewidth=1)
        right.set_title("Residuals")
        right.set_xlabel("predicted less true, in the target's units")
        right.set_ylabel("validation rows")
    return made.svg


def calibration_plot(calibration: Calibration) -> str:
    """How often stated probabilities came true, and how many rows state them."""
    with drawing("calibration", "Reliability diagram", n_axes=2, height=3.6) as made:
        left, right = made.axes
        left.plot([0, 100], [0, 100], color=INK, linestyle="--", linewidth=1, label="perfect")
        filled = [b for b in calibration.bins if b.hit_rate and b.confidence is not None]
        rates = [b.hit_rate for b in filled if b.hit_rate]
        middle = np.array([100 * rate.estimate for rate in rates])
        ends = np.array([[100 * rate.low, 100 * rate.high] for rate in rates]).T.reshape(2, -1)
        left.errorbar(
            [100 * (b.confidence or 0.0) for b in filled],
            middle,
            np.abs(ends - middle),
            fmt="o",
            color=ORANGE,
            capsize=4,
            label="validation, 95 % intervals",
        )
        left.set_title("Stated against observed")
        left.set_xlabel("stated probability, %")
        left.set_ylabel("came true, %")
        left.set_ylim(-4, 104)
        left.legend(loc="lower right")
        centres = [50 * (b.low + b.high) for b in calibration.bins]
        right.bar(centres, [b.rows for b in calibration.bins], width=9, color=BLUE, alpha=0.8)
        right.set_title("How sure it is")
        right.set_xlabel("stated probability, %")
        right.set_ylabel("predictions")
    return made.svg


# ----- below


def _line(
    axes: Axes,
    epochs: Sequence[Epoch],
    values: Sequence[float | None],
    label: str,
    color: str,
    *,
    dashed: bool = False,
) -> None:
    points = [(e.epoch, v) for e, v in zip(epochs, values, strict=True) if v is not None]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(
            x,
            y,
            color=color,
            label=label,
            linestyle="--" if dashed else "-",
            marker=("s" if dashed else "o") if len(points) <= _MANY_EPOCHS else None,
        )


def _finish(
    axes: Axes, title: str, unit: str, epochs: Sequence[Epoch], best_epoch: int | None
) -> None:
    from matplotlib.ticker import MaxNLocator

    if best_epoch is not None:
        axes.axvline(best_epoch, color=PINK, linestyle=":", label=f"best epoch, {best_epoch}")
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    if len(epochs) == 1:
        axes.set_xlim(0, 2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float], color: str) -> None:
    """Dots on a logarithmic scale, first layer on top; what is 0 has none."""
    positions = np.arange(len(names))
    shown = [(p, v) for p, v in zip(positions, values, strict=True) if v > 0]
    axes.set_yticks(positions, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    if shown:
        where, sizes = zip(*shown, strict=True)
        low = 10.0 ** np.floor(np.log10(min(sizes)) - 0.1)
        high = 10.0 ** np.ceil(np.log10(max(sizes)) + 0.1)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.minorticks_off()
        axes.hlines(where, low, sizes, color=FAINT, linewidth=1.5)
        axes.plot(sizes, where, "o", color=color, markersize=7)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
