"""What a teacher answers, as distillation takes it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compress.evaluate import bind_rows, ends_in_sigmoid, ends_in_softmax, make_judge
from compress.export import Model
from compress.session import Session
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.nn.network import Network
from hlserve.nn.param import Array

IMAGE_DTYPES = (np.uint8, np.float32, np.float64)
MOST_CHANNELS, SMALLEST_SIDE = 4, 8  # of an image; other rows of four axes are left alone
SMALLEST_PROBABILITY = 1e-7  # keeps logarithms of a teacher's probabilities finite


def teacher_logits(teacher: Model, train: Rows, output: str | None) -> Array | None:
    """What the teacher's closing Softmax or Sigmoid is fed with, or its numbers.

    None where it answers more than one row of numbers a row, which no student can imitate here.
    """
    if isinstance(teacher, Network):
        bare = _ending_at_logits(teacher)
        inputs = train.inputs_for([entry.name for entry in bare.inputs])
        return next(iter(bare.predict(inputs).values()))
    session = Session(teacher.SerializeToString(), name="teacher")
    feeds = bind_rows(session, train)
    judge = make_judge(teacher, session, None, output=output)
    answers = judge.answers(session, feeds).astype(np.float32)
    if answers.ndim != 2:
        return None
    if ends_in_softmax(teacher, judge.output):
        return np.log(np.maximum(answers, SMALLEST_PROBABILITY))
    if ends_in_sigmoid(teacher, judge.output):
        sure = np.clip(answers, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        return np.asarray(np.log(sure / (1 - sure)))
    return answers


def learning_data(
    root: Network, rows: Rows, logits: Array | None, *, seed: int, progress: bool
) -> Data:
    """What a network's techniques learn from: the rows of its inputs, in its shapes."""
    inputs = rows.inputs_for([entry.name for entry in root.inputs])
    return Data(
        Rows(root.fitting_rows(inputs), rows.y),
        logits,
        image_shape=_image_shape(inputs),
        seed=seed,
        progress=progress,
    )


# ----- below


def _image_shape(inputs: Mapping[str, Array]) -> tuple[int, int, int] | None:
    """Of the only input, where its rows look like images."""
    rows = next(iter(inputs.values()))
    if len(inputs) != 1 or rows.ndim != 4 or rows.dtype not in IMAGE_DTYPES:
        return None
    _, channels, height, width = rows.shape
    if channels > MOST_CHANNELS or min(height, width) < SMALLEST_SIDE:
        return None
    return channels, height, width


def _ending_at_logits(network: Network) -> Network:
    """The same network, its output taken ahead of the closing Softmax; shares no array."""
    copy = network.copy()
    return Network(
        copy.inputs,
        copy.nodes,
        {"logits": copy.logits_node},
        task=copy.task,
        class_labels=copy.class_labels,
    )
