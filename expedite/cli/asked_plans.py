"""The plans of a sweep from the options that say them, from a file, or from a recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expedite.cli.options import assignments, exit_at, parse_list, parse_yaml
from expedite.errors import ExpediteError
from expedite.evaluate.plans import Size, grid_of_plans, parse_number, parse_size, read_plans
from expedite.measure.mode import Job, jobs_of, modes_of
from expedite.plan import Plan
from expedite.recipes import RECIPES

Sizes = tuple[list[Size] | None, list[float] | None]


@dataclass(frozen=True)
class AskedPlans:
    """Options of a sweep as they were typed; None where one was not.

    Args:
        file: A YAML file of plans, in place of all but the modes.
        alpha: Lists between commas, as all that follow; 4+8 is a plan of two spans.
        clusters: The same.
        keep: The same.
        beta: Of all spans.
        method: Names of methods.
        reconstruct_at: Of all plans.
        settings: Others, as NAME=VALUE or NAME=A,B.
        dtype: Of every plan, where a file does not say another.
        compiled: The same of how they are compiled.
    """

    file: Path | None
    alpha: str | None
    clusters: str | None
    keep: str | None
    beta: int | None
    method: str
    reconstruct_at: str
    settings: Sequence[str] | None
    dtype: str
    compiled: str

    def jobs(self, model: str) -> list[Job]:
        """Every plan in every mode.

        Args:
            model: Where it is a recipe and no plan was given, its own plans are meant.

        Raises:
            ExpediteError: A value cannot be read, or options contradict each other.
        """
        dtypes, compiles = parse_list(self.dtype), parse_list(self.compiled)
        modes = modes_of(dtypes, compiles)
        others = (self.alpha, self.clusters, self.keep, self.beta, self.settings)
        silent = not (any(others) or exit_at(self.reconstruct_at)) and self.method == "expedite"
        if self.file is not None:
            if not silent:
                raise ExpediteError(
                    f"--plans {self.file} was given with other plans; give one or the other"
                )
            return read_plans(self.file, dtypes, compiles)
        if silent and model in RECIPES:
            return jobs_of((row.plan for row in RECIPES[model].rows if row.plan), modes)
        return jobs_of(self._grid(), modes)

    def _grid(self) -> list[Plan]:
        methods = parse_list(self.method)
        if self.alpha is None and methods != ["downsample"]:
            raise ExpediteError("neither --alpha nor --plans was given; one of them is due")
        texts = parse_list(self.alpha or "0")
        alphas = [[parse_number(int, a) for a in text.split("+")] for text in texts]
        values = {name: [value] for name, value in exit_at(self.reconstruct_at).items()}
        for name, text in assignments(self.settings):
            values[name] = [parse_yaml(name, part) for part in text.split(",")]
        return grid_of_plans(methods, alphas, self._sizes(), self.beta, values)

    def _sizes(self) -> list[Sizes]:
        """Cluster grids or shares to keep of the spans of each plan, one of each pair None."""
        if self.clusters is not None:
            texts = parse_list(self.clusters)
            return [([*map(parse_size, text.split("+"))], None) for text in texts]
        if self.keep is None:
            raise ExpediteError("neither --clusters nor --keep was given; one of them is due")
        shares = [text.split("+") for text in parse_list(self.keep)]
        return [(None, [parse_number(float, part) for part in parts]) for parts in shares]
