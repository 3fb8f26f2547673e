"""A configuration beside the graph: what it leaves out, what it gets wrong, and both as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hlserve.errors import ConfigError
from hlserve.pb.messages import model_config
from hlserve.repository import MODEL_FILE
from hlserve.serving.batching_config import BatchingConfig
from hlserve.serving.config import DeclaredTensor, ModelConfig
from hlserve.serving.datatype_names import datatype_number
from hlserve.serving.model_config import BACKEND, PLATFORM
from hlserve.serving.session import Session, TensorInfo

_MAX_LABEL_FILE_BYTES = 16 << 20


def narrow_to_declared(session: Session, config: ModelConfig) -> None:
    """Makes the session offer what the configuration declares, where it declares something.

    All inputs must be declared or none; outputs that are not declared are not answered. With
    max_batch_size, dims leave the batch axis out (Triton's rule).

    Raises:
        ConfigError: a declared tensor is not the graph's; the message names both.
    """
    has_batch_axis = config.max_request_rows is not None
    if has_batch_axis:
        for tensor in (*session.inputs, *session.outputs):
            if tensor.shape and tensor.shape[0] not in (-1, 1):
                raise ConfigError(
                    f"max_batch_size is {config.max_request_rows}, and {tensor.name!r} has shape "
                    f"{list(tensor.shape)}: its first axis is no batch; remove max_batch_size"
                )
    missing = {t.name for t in session.inputs} - {t.name for t in config.inputs}
    if config.inputs and missing:
        raise ConfigError(
            f"the inputs {[t.name for t in config.inputs]} are declared, the model has "
            f"{[t.name for t in session.inputs]}: declare all of them, or none"
        )
    inputs = _narrowed("input", session.inputs, config.inputs, has_batch_axis=has_batch_axis)
    outputs = _narrowed("output", session.outputs, config.outputs, has_batch_axis=has_batch_axis)
    session.narrow(inputs, outputs)


def check_batching(config: ModelConfig, session: Session, why_not: str | None) -> None:
    """Whether a stated max_batch_size fits what was found by trying.

    Raises:
        ConfigError: it does not.
    """
    rows = config.max_request_rows
    if rows is None or why_not is None:
        return
    if rows == 1 and all(t.shape[:1] in ((1,), (-1,)) for t in (*session.inputs, *session.outputs)):
        return  # Triton's way to say: an axis of one row
    raise ConfigError(
        f"max_batch_size is {rows}, and the model does not batch: {why_not}; remove max_batch_size"
    )


def read_labels(model_dir: Path, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The labels of each output that has a label_filename, by the output's name.

    Raises:
        ConfigError: a file cannot be read.
    """
    labels = {}
    for tensor in config.outputs:
        if tensor.label_file is None:
            continue
        path = model_dir / tensor.label_file
        try:
            if path.resolve().parent != model_dir.resolve():
                raise ConfigError(f"output {tensor.name!r}: {tensor.label_file} is a link out")
            if path.stat().st_size > _MAX_LABEL_FILE_BYTES:
                raise ConfigError(f"output {tensor.name!r}: {tensor.label_file} is over 16 MiB")
            labels[tensor.name] = tuple(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"output {tensor.name!r}: cannot read {tensor.label_file}: {error}"
            ) from error
    return labels


def full_config(
    name: str, session: Session, config: ModelConfig, *, joins: bool
) -> model_config.ModelConfig:
    """The whole of Triton's ModelConfig, from what was declared and what the graph says.

    Where rows are joined, max_batch_size is the most rows of a run and dims leave the batch axis
    out; elsewhere it is 0 and dims are whole. The optional properties that were not set are not.
    """
    has_batch_axis = joins or config.max_request_rows is not None
    message = model_config.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=config.batching.max_rows if has_batch_axis else 0,
        default_model_filename=config.model_file or MODEL_FILE,
    )
    label_files = {t.name: t.label_file or "" for t in config.outputs}
    skipped = 1 if has_batch_axis else 0
    for tensor in session.inputs:
        message.input.add(
            name=tensor.name,
            data_type=datatype_number(tensor.datatype.name),
            dims=tensor.shape[skipped:],
        )
    for tensor in session.outputs:
        message.output.add(
            name=tensor.name,
            data_type=datatype_number(tensor.datatype.name),
            dims=tensor.shape[skipped:],
            label_filename=label_files.get(tensor.name, ""),
        )
    _add_version_policy(message, config)
    _add_instance_group(message, config)
    if joins:
        _add_batching(message, config.batching)
    _add_parameters(message, config)
    _add_warm_ups(message, config)
    message.model_transaction_policy.decoupled = False
    return message


# ----- below: the graph's tensors beside the declared ones


def _narrowed(
    kind: str,
    actual: Sequence[TensorInfo],
    declared: Sequence[DeclaredTensor],
    *,
    has_batch_axis: bool,
) -> tuple[TensorInfo, ...]:
    if not declared:
        return tuple(actual)
    by_name = {tensor.name: tensor for tensor in actual}
    unknown = [tensor.name for tensor in declared if tensor.name not in by_name]
    if unknown:
        raise ConfigError(
            f"{kind} {unknown[0]!r} is declared, the model has the {kind}s {list(by_name)}"
        )
    stated = {tensor.name: tensor for tensor in declared}
    return tuple(
        _narrow(kind, tensor, stated[tensor.name], has_batch_axis=has_batch_axis)
        for tensor in actual
        if tensor.name in stated
    )


def _narrow(
    kind: str, actual: TensorInfo, declared: DeclaredTensor, *, has_batch_axis: bool
) -> TensorInfo:
    if declared.datatype not in (None, actual.datatype.name):
        raise ConfigError(
            f"{kind} {actual.name!r} is declared {declared.datatype}, the model has "
            f"{actual.datatype.name}"
        )
    if declared.dims is None:
        return actual
    batch_axis = actual.shape[:1] or (-1,) if has_batch_axis else ()
    shape = (*batch_axis, *declared.dims)
    if not actual.shape:  # a rank that the graph does not state
        return replace(actual, shape=shape, symbols=(None,) * len(shape))
    fits = len(shape) == len(actual.shape) and all(
        want in (-1, got) for got, want in zip(shape, actual.shape, strict=True)
    )
    if not fits:
        axis = "the batch axis left out" if has_batch_axis else "no max_batch_size: all axes"
        raise ConfigError(
            f"{kind} {actual.name!r} is declared with dims {list(declared.dims)} ({axis}), the "
            f"model has shape {list(actual.shape)}, so expected "
            f"{list(actual.shape[len(batch_axis) :])}"
        )
    return replace(actual, shape=shape)


# ----- below: parts of the answer


def _add_version_policy(message: model_config.ModelConfig, config: ModelConfig) -> None:
    if config.specific_versions:
        message.version_policy.specific.versions.extend(config.specific_versions)
    elif config.latest_versions is None:
        message.version_policy.all.SetInParent()
    else:
        message.version_policy.latest.num_versions = config.latest_versions


def _add_instance_group(message: model_config.ModelConfig, config: ModelConfig) -> None:
    provider = config.provider
    group = message.instance_group.add(name=message.name, count=config.instances)
    on_gpu = provider.name != "cpu"
    group.kind = group.KIND_GPU if on_gpu else group.KIND_CPU
    if on_gpu:
        group.gpus.append(provider.device or 0)
        accelerator = message.optimization.execution_accelerators.gpu_execution_accelerator.add()
        accelerator.name = provider.name
        accelerator.parameters.update(provider.options)


def _add_batching(message: model_config.ModelConfig, config: BatchingConfig) -> None:
    batching = message.dynamic_batching
    batching.max_queue_delay_microseconds = round(config.max_queue_delay_s * 1e6)
    batching.preferred_batch_size.extend(config.preferred_rows)
    batching.preserve_ordering = config.preserve_ordering
    batching.priority_levels = config.priority_levels
    batching.default_priority_level = config.default_priority_level
    policies = [(batching.default_queue_policy, config.queue_policy)]
    policies += [
        (batching.priority_queue_policy[level], policy)
        for level, policy in config.priority_queue_policies.items()
    ]
    for target, policy in policies:
        is_delayed = policy.timeout_action == "DELAY"
        target.timeout_action = target.DELAY if is_delayed else target.REJECT
        target.default_timeout_microseconds = round(policy.default_timeout_s * 1e6)
        target.allow_timeout_override = policy.allow_timeout_override
        target.max_queue_size = policy.max_queue_size


def _add_parameters(message: model_config.ModelConfig, config: ModelConfig) -> None:
    for key, value in (
        ("intra_op_thread_count", config.intra_op_threads),
        ("max_queue_rows", config.batching.max_queue_rows),
        ("session.intra_op.allow_spinning", int(config.spins)),
    ):
        message.parameters[key].string_value = str(value)


def _add_warm_ups(message: model_config.ModelConfig, config: ModelConfig) -> None:
    for warm_up in config.warm_ups:
        added = message.model_warmup.add(
            name=warm_up.name, batch_size=warm_up.rows, count=warm_up.count
        )
        for name, tensor in warm_up.inputs.items():
            target = added.inputs[name]
            target.data_type = datatype_number(tensor.datatype)
            target.dims.extend(tensor.dims)
            if tensor.fill == "file":
                target.input_data_file = tensor.file
            elif tensor.fill == "zeros":
                target.zero_data = True
            else:
                target.random_data = True
