"""The error tree: everything that a user can cause and mend.

    HarnessError            exit code 2
      RecipeError           a recipe or baseline file, with all of its problems at once
      DataError             a data file, a column, a value, a checkpoint
      UnsupportedError      asked for what this machine, engine or model can't do
      EnvironmentMismatch   results that may not be compared
      TrainingError         training went wrong (a loss that isn't finite)
      EffectError           a stage that ran and did not do what was asked

Every message says where, what came, what was expected and what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one file; ``str()`` gives ``file:line: path: message``."""

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class HarnessError(Exception):
    """What a user can cause and mend; printed as one line, without a traceback."""

    exit_code = 2


class RecipeError(HarnessError):
    """One or more problems in recipe or baseline files, all reported together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class DataError(HarnessError):
    """A data file, column, value or checkpoint that can't be used."""


class UnsupportedError(HarnessError):
    """Asked for something that can't be had here; ``code`` is one of the probe codes."""

    def __init__(self, message: str, *, code: str = "unsupported") -> None:
        self.code = code
        super().__init__(message)


class EnvironmentMismatch(HarnessError):
    """Results of different machines or settings that may not be compared."""


class TrainingError(HarnessError):
    """A training run that can't be used, such as a loss that is no longer finite."""


class EffectError(HarnessError):
    """A stage that ran but did not have the effect that was asked for."""
