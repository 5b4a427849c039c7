"""The error tree: everything that a user can cause and mend.

    HarnessError            exit code 2
      RecipeError           a recipe or baseline file, with all of its problems at once
      DataError             a data file, a column, a value, a checkpoint
        WriteError          a disk that is full or a folder that can't be written: ends the run
      UnsupportedError      asked for what this machine, engine or model can't do
      EnvironmentMismatch   results that may not be compared
      TrainingError         training went wrong (a loss that isn't finite)
      EffectError           a stage that ran and did not do what was asked

Every message says where, what came, what was expected and what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.visible import told

MOST = 100
"""Problems of recipes that are told; more are counted."""


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
    """What a user can cause and mend; printed as one line, without a traceback. Whatever a file of
    others put into the message is visible, and bounded.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(told(message))


class RecipeError(HarnessError):
    """One or more problems in recipe or baseline files, all reported together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:MOST]]
        if len(self.problems) > MOST:
            lines.append(f"and {len(self.problems) - MOST:,} more")
        super().__init__("\n".join(lines))


class DataError(HarnessError):
    """A data file, column, value or checkpoint that can't be used."""


class WriteError(DataError):
    """A file that can't be written; no variant's fault, and the next one would meet it too."""


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
