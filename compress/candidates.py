"""What may take the original's place, and what the user narrows the search to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from compress.quantization import QuantizeStatic
from compress.quantization.post_training import PostTraining
from compress.recipe import Recipe
from compress.remake import Remade
from compress.session import Provider
from compress.technique import Report
from hlserve.errors import ConfigError
from hlserve.nn.network import Network


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may take the original's place.

    Attributes:
        name: what was done, in words.
        model: the ONNX file.
        parameters: numbers that its weights hold.
        recipe: its steps as TOML; empty for the original.
        steps: what each step of a recipe did, where the network was ours.
        family: what kind it is: ``original``, ``folded``, ``pruned``, ``low rank``, ``student``,
            ``recipe`` or ``graph``.
        macs: multiply-accumulates of one row; None where they are not known.
        network: what the file was made of; None where it was made of another file.
    """

    name: str
    model: bytes
    parameters: int
    recipe: str = ""
    steps: tuple[Report, ...] = ()
    family: str = "folded"
    macs: int | None = None
    network: Network | None = None

    @classmethod
    def of_network(cls, name: str, family: str, recipe: Recipe, made: Remade) -> Self:
        """What a recipe made of a network, a step on its file perhaps behind it."""
        network = made.network
        assert network is not None  # it was made of one
        return cls(
            name,
            made.model,
            network.n_parameters,
            recipe.to_toml(),
            made.reports,
            family=family,
            macs=network.macs(),
            network=network,
        )

    @property
    def followed(self) -> Recipe:
        """Its steps; none for the original."""
        return Recipe.from_toml(self.recipe) if self.recipe else Recipe(())

    @property
    def size_bytes(self) -> int:
        """Of the ONNX file."""
        return len(self.model)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user narrows the search to; None and the default leave it to the search.

    Attributes:
        ratio: the only share of units to prune.
        quantize: ``int8`` tries integers only, ``none`` floats only.
        recipe: the only steps to try.
        student: a fresh network to distil into, in place of pruning.
        half: whether to try fp16 beside floats; for graphics processors.
    """

    ratio: float | None = None
    quantize: str | None = None
    recipe: Recipe | None = None
    student: Network | None = None
    half: bool = False

    def __post_init__(self) -> None:
        if self.quantize not in (None, "int8", "none"):
            raise ConfigError(f"quantize is {self.quantize!r}, expected 'int8' or 'none'")
        if self.recipe is not None and (self.ratio, self.quantize, self.student) != (None,) * 3:
            raise ConfigError("a recipe says every step; leave prune, quantize and student out")
        if self.student is not None and self.ratio is not None:
            raise ConfigError("give either a student or a share to prune, not both")


def plan_for(provider: Provider, plan: Plan) -> tuple[Plan, str]:
    """The plan as the provider can follow it, and what a reader must know of that.

    ONNX Runtime's CUDA provider has no int8 kernels: integers would fall back to the CPU.

    Raises:
        ConfigError: integers are asked for where they do not run.
    """
    if provider == "cpu":
        return plan, ""
    steps = () if plan.recipe is None else (*plan.recipe.steps, *plan.recipe.endings)
    quantizing = [s for s in steps if isinstance(s, QuantizeStatic | PostTraining)]
    if quantizing or plan.quantize == "int8":
        asked = f"the recipe's {type(quantizing[0]).__name__}" if quantizing else "--quantize int8"
        raise ConfigError(
            f"{asked} is for --provider cpu; on {provider} ONNX Runtime computes in floats"
        )
    if plan.recipe is not None:
        return plan, ""
    note = f"no integers are tried for {provider}, where int8 does not gain"
    return replace(plan, quantize="none", half=plan.quantize != "none"), note
