"""Messages of the calls that look after the server: models, statistics, regions, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hlserve.errors import InvalidRequestError
from hlserve.pb.messages import inference
from hlserve.serving.model import ServedModel
from hlserve.serving.settings import LogValue
from hlserve.serving.shared_memory import Region
from hlserve.serving.statistics import BatchStatistics, Duration

_FILE_PREFIX = "file:"


def model_asked(request: Any) -> tuple[str, str]:
    """The model and version that a request of these calls names; empty: none."""
    if isinstance(request, inference.ModelConfigRequest | inference.ModelStatisticsRequest):
        return request.name, request.version
    return getattr(request, "model_name", ""), ""


def statistics_message(model: ServedModel) -> inference.ModelStatistics:
    """What one version has done."""
    record = model.statistics
    message = inference.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=record.last_inference_ms,
        inference_count=record.inference_count,
        execution_count=record.execution_count,
        inference_stats=inference.InferStatistics(
            success=_duration(record.success),
            fail=_duration(record.fail),
            queue=_duration(record.queue),
            compute_input=_duration(record.compute_input),
            compute_infer=_duration(record.compute_infer),
            compute_output=_duration(record.compute_output),
            cache_hit=inference.StatisticDuration(),
            cache_miss=inference.StatisticDuration(),
        ),
    )
    for rows, batch in sorted(record.batches.items()):
        message.batch_stats.append(_batch(rows, batch))
    return message


def _duration(duration: Duration) -> inference.StatisticDuration:
    return inference.StatisticDuration(count=duration.count, ns=duration.ns)


def _batch(rows: int, batch: BatchStatistics) -> inference.InferBatchStatistics:
    def phase(ns: int) -> inference.StatisticDuration:
        return inference.StatisticDuration(count=batch.count, ns=ns)

    return inference.InferBatchStatistics(
        batch_size=rows,
        compute_input=phase(batch.compute_input_ns),
        compute_infer=phase(batch.compute_infer_ns),
        compute_output=phase(batch.compute_output_ns),
    )


def load_parameters(
    request: inference.RepositoryModelLoadRequest,
) -> tuple[str | None, dict[str, bytes]]:
    """The configuration and the files that come with a load; without them the folder's hold.

    Raises:
        InvalidRequestError: a parameter is unknown or of a wrong kind, or files come without a
            configuration.
    """
    where = f"load of model {request.model_name!r}"
    config: str | None = None
    files: dict[str, bytes] = {}
    for name, parameter in request.parameters.items():
        if name == "config":
            config = _value(parameter, "string_param", where, name)
        elif name.startswith(_FILE_PREFIX):
            path = name.removeprefix(_FILE_PREFIX)
            files[path] = _value(parameter, "bytes_param", where, name)
        else:
            raise InvalidRequestError(
                f"{where}: unknown parameter {name!r}, expected config or file:<version>/<file>"
            )
    if files and config is None:
        raise InvalidRequestError(f"{where}: files came without the parameter config")
    return config, files


def unloads_dependents(request: inference.RepositoryModelUnloadRequest) -> bool:
    """Whether the models that this one is made of go with it.

    Raises:
        InvalidRequestError: a parameter is unknown or of a wrong kind.
    """
    where = f"unload of model {request.model_name!r}"
    answer = False
    for name, parameter in request.parameters.items():
        if name != "unload_dependents":
            raise InvalidRequestError(
                f"{where}: unknown parameter {name!r}, expected unload_dependents"
            )
        answer = _value(parameter, "bool_param", where, name)
    return answer


def check_repository(name: str) -> None:
    """There is one repository, and it has no name.

    Raises:
        InvalidRequestError: another one was asked for.
    """
    if name:
        raise InvalidRequestError(f"repository {name!r} is unknown, this server's one has no name")


def _value(parameter: inference.ModelRepositoryParameter, field: str, where: str, name: str) -> Any:
    got = parameter.WhichOneof("parameter_choice")
    if got != field:
        raise InvalidRequestError(f"{where}: parameter {name!r} holds {got}, expected {field}")
    return getattr(parameter, field)


def regions_message(regions: Iterable[Region]) -> inference.SystemSharedMemoryStatusResponse:
    """Registered regions by name."""
    response = inference.SystemSharedMemoryStatusResponse()
    for region in regions:
        entry = response.regions[region.name]
        entry.name, entry.key = region.name, region.key
        entry.offset, entry.byte_size = region.offset, region.byte_size
    return response


def log_changes(request: inference.LogSettingsRequest) -> dict[str, LogValue]:
    """What the client wants of the log.

    Raises:
        InvalidRequestError: a setting holds no value.
    """
    changes: dict[str, LogValue] = {}
    for name, setting in request.settings.items():
        field = setting.WhichOneof("parameter_choice")
        if field is None:
            raise InvalidRequestError(f"log setting {name!r} holds no value")
        changes[name] = getattr(setting, field)
    return changes


def log_message(settings: Mapping[str, LogValue]) -> inference.LogSettingsResponse:
    """The log's settings."""
    response = inference.LogSettingsResponse()
    for name, value in settings.items():
        if isinstance(value, bool):
            response.settings[name].bool_param = value
        elif isinstance(value, int):
            response.settings[name].uint32_param = value
        else:
            response.settings[name].string_param = value
    return response


def trace_message(settings: Mapping[str, Iterable[str]]) -> inference.TraceSettingResponse:
    """What is traced."""
    response = inference.TraceSettingResponse()
    for name, values in settings.items():
        response.settings[name].value.extend(values)
    return response
