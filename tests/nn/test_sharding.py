"""Half a batch a thread gives what one thread gives."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from hlserve.nn.architectures import build
from hlserve.nn.batches import Batch
from hlserve.nn.history import EpochRecord
from hlserve.nn.layers import Conv2d, Dropout, Flatten, Linear, ReLU
from hlserve.nn.losses import CrossEntropy, Targets
from hlserve.nn.network import Input, Network, sequential
from hlserve.nn.optimizers import SGD, AdamW
from hlserve.nn.param import Array
from hlserve.nn.sharding import Shards, n_shards
from hlserve.nn.trainer import fit
from hlserve.nn.training_settings import Gradients, Weighting
from tests.nn.centring import Centring
from tests.nn.test_layers import NUMPY_BUFFERS

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (203, 1, 12, 12), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 203)


def lenet(seed: int = 0) -> Network:
    return build(
        "lenet5",
        input_shape=(1, 12, 12),
        n_outputs=10,
        task="classification",
        scale=1 / 255,
        seed=seed,
    )


def trained(network: Network, threads: int, **settings: object) -> Array:
    arguments: dict[str, object] = {
        "epochs": 2,
        "batch_size": 64,
        "optimizer": SGD(0.05),
        "progress": False,
        "threads": threads,
        **settings,
    }
    fit(network, IMAGES, LABELS, **arguments)  # type: ignore[arg-type]
    return network.value


# ----- replicas


def test_a_replica_shares_values_and_nothing_else() -> None:
    layers = [Linear(4, 3), Centring(3), ReLU(), Linear(3, 2)]
    network = sequential(layers, Input("x", (4,))).initialize(np.random.default_rng(0))
    replica = network.replica()
    assert replica.value is network.value
    assert not np.shares_memory(replica.grad, network.grad)
    assert not np.shares_memory(replica.statistics, network.statistics)
    for (name, mine), theirs in zip(
        network.params().items(), replica.params().values(), strict=True
    ):
        assert mine is not theirs
        assert np.shares_memory(mine.value, theirs.value) == mine.is_trained, name
        if mine.is_trained:
            assert np.shares_memory(theirs.grad, replica.grad)
        else:
            assert np.shares_memory(theirs.value, replica.statistics)
    assert replica.node("linear_1").layer is not network.node("linear_1").layer


@pytest.mark.parametrize("n", [1, 2, 3])
def test_shards_add_up_to_the_gradient_of_the_batch(n: int) -> None:
    network = lenet().astype(np.float64)
    rows = IMAGES[:67]
    weights = np.random.default_rng(1).uniform(0, 2, 67)
    targets: Targets = {"labels": LABELS[:67], "weights": weights}
    loss = CrossEntropy(label_smoothing=0.1)
    scores, backward = network.forward(rows, training=True, until=network.logits_node)
    value, d_scores = loss(scores, targets)
    network.grad.fill(0)
    backward(d_scores)
    wanted = network.grad.copy()

    shards = Shards(network, loss, [np.random.default_rng(i) for i in range(n)])
    found, weight = shards.add_gradients([Batch({"input": rows}, targets)])
    shards.close()
    # float64: what is left is the order of some hundred sums.
    assert found == pytest.approx(value, rel=1e-12)
    assert weight == pytest.approx(weights.sum(), rel=1e-12)
    np.testing.assert_allclose(network.grad, wanted, rtol=1e-9, atol=1e-14)


# ----- whole trainings


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradients": Gradients(accumulate=2, clip_norm=0.5)},
        {"weighting": Weighting("balanced")},
    ],
)
def test_threads_train_like_one_to_rounding(threads: int, settings: dict[str, object]) -> None:
    one, several = lenet(), lenet()
    assert n_shards(several, threads, 64) == threads
    trained(one, 1, **settings)
    trained(several, threads, **settings)
    # float32 gradients added in another order, over some ten steps: 1e-6 each of weights near 0.1.
    np.testing.assert_allclose(several.value, one.value, rtol=1e-3, atol=2e-5)
    assert not np.array_equal(several.value, lenet().value)


def with_everything() -> Network:
    layers = [
        *(Conv2d(1, 4, 3), ReLU(), Flatten(), Dropout(0.3)),
        *(Linear(400, 8), Centring(8), Linear(8, 10)),
    ]
    network = sequential(layers, Input("image", (1, 12, 12)), task="classification")
    return network.initialize(np.random.default_rng(0))


def normalized() -> Network:
    return build("cnn:8/8", input_shape=(1, 12, 12), n_outputs=10, task="classification")


@pytest.mark.parametrize("make", [with_everything, normalized, lenet])
def test_two_threads_repeat_bit_for_bit(make: Callable[[], Network]) -> None:
    networks = [make() for _ in range(3)]
    assert n_shards(networks[0], 2, 64) == 2
    values = [trained(network, 2, optimizer=AdamW(0.01)) for network in networks]
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])
    np.testing.assert_array_equal(networks[0].statistics, networks[1].statistics)


def test_normalization_by_half_a_batch_keeps_the_mean_of_the_halves() -> None:
    network = normalized()
    rows, targets = IMAGES[:64], LABELS[:64]
    halves = []
    for half in (slice(0, 32), slice(32, 64)):
        alone = network.copy()
        alone.forward(rows[half], training=True, until=alone.logits_node)
        halves.append(alone.statistics)
    shards = Shards(network, CrossEntropy(), [np.random.default_rng(0)] * 2)
    shards.add_gradients([Batch({"input": rows}, targets)])
    shards.close()
    assert network.statistics.size
    # A mean of two float32 numbers, in another order of roundings; the fused chain pools first.
    np.testing.assert_allclose(network.statistics, np.mean(halves, axis=0), rtol=1e-5, atol=1e-6)


def test_masked_weights_stay_zero_in_two_threads_and_the_others_learn() -> None:
    one, several = lenet(), lenet()
    for network in (one, several):
        for param in network.params().values():
            position = np.arange(param.value.size).reshape(param.value.shape)
            param.mask = (position % 11 % 3 > 0).astype(np.float32)  # no whole row or column
            param.value *= param.mask
    before = several.value.copy()
    assert n_shards(several, 2, 64) == 2
    trained(one, 1)
    trained(several, 2)
    masks = np.concatenate([p.mask.ravel() for p in several.params().values()])  # type: ignore[union-attr]  # set above
    assert not several.value[masks == 0].any()
    assert np.mean(several.value[masks == 1] != before[masks == 1]) > 0.5
    np.testing.assert_allclose(several.value, one.value, rtol=1e-3, atol=2e-5)  # as above


def test_statistics_are_the_shards_mean() -> None:
    layers = [Centring(3), Linear(3, 2)]
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    y = np.arange(50) % 2
    found = []
    for n in (1, 2):
        network = sequential(layers, Input("x", (3,)), task="classification")
        network.statistics[...] = 0
        shards = Shards(network, CrossEntropy(), [np.random.default_rng(0)] * n)
        shards.add_gradients([Batch({"x": x}, y)])
        shards.close()
        found.append(network.statistics.copy())
    # A mean of means of equal halves is the mean of all, to rounding in float32.
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[0], 0.1 * x.mean(axis=0), rtol=1e-5, atol=1e-7)


def test_a_last_batch_smaller_than_the_threads_is_trained_on() -> None:
    one, several = lenet(), lenet()
    rows = {"batch_size": 101, "validation": None, "epochs": 1}  # the last batch is one row
    trained(one, 1, **rows)
    trained(several, 2, **rows)
    np.testing.assert_allclose(several.value, one.value, rtol=1e-3, atol=2e-5)  # as above


def test_an_error_in_a_thread_comes_out() -> None:
    def broken(scores: Array, targets: Targets) -> tuple[float, Array]:
        if scores.shape[1] == 32 and int(np.asarray(targets)[0]) >= 0:
            raise RuntimeError("broken")
        return CrossEntropy()(scores, targets)

    with pytest.raises(RuntimeError, match="broken"):
        trained(lenet(), 2, loss=broken)


# ----- the rule


def test_batches_are_split_where_weights_are_used_again() -> None:
    dense = build("mlp:300,100", input_shape=(144,), n_outputs=10, task="classification")
    assert n_shards(dense, 2, 128) == 1
    assert n_shards(lenet(), 2, 128) == 2
    assert n_shards(lenet(), 2, 31) == 1  # 16 rows a thread
    assert n_shards(lenet(), 1, 128) == 1
    assert n_shards(lenet(), None, 128) == 1


# ----- memory


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spec", ["mlp:300,100", "lenet5"])
def test_a_steady_step_allocates_no_array_over_64_kb(spec: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (512, 1, 28, 28), dtype=np.uint8)
    y = rng.integers(0, 10, 512)
    network = build(
        spec, input_shape=(1, 28, 28), n_outputs=10, task="classification", scale=1 / 255
    )
    if spec.startswith("mlp"):
        x = x.reshape(512, 784)
    peaks: list[int] = []

    class Watching:
        """Cross-entropy that looks, once a step, at what was allocated since the step before."""

        def __init__(self) -> None:
            self._loss = CrossEntropy()

        def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
            if scores.shape[1] == 128 // n_shards(network, threads, 128):
                now, peak = tracemalloc.get_traced_memory()
                peaks.append(peak - now)
                tracemalloc.reset_peak()
            return self._loss(scores, targets)

    tracemalloc.start()
    try:
        fit(
            network,
            x,
            y,
            loss=Watching(),
            epochs=3,
            batch_size=128,
            validation=None,
            gradients=Gradients(clip_norm=1.0),
            threads=threads,
            progress=False,
        )
    finally:
        tracemalloc.stop()
    assert len(peaks) >= 12
    # The first steps make the buffers. An epoch's permutation of 512 rows is 4 kB, and so are
    # the rows of numbers a batch that the loss makes.
    assert max(peaks[6:]) < threads * (NUMPY_BUFFERS + 20_000)


def test_callbacks_see_the_trained_network_with_threads() -> None:
    seen: list[bool] = []

    def look(network: Network, record: EpochRecord) -> None:
        seen.append(bool(np.isfinite(network.value).all()))

    trained(lenet(), 2, callbacks=[look])
    assert seen == [True, True]
