"""A user's own model that doesn't work is one sentence, whatever it raises and wherever."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.errors import DataError, UnsupportedError
from harness.models.file import build
from harness.modules import model_inputs
from harness.user_code import check_forward

SOURCE = """
import torch
from torch import nn


class Rec(nn.Module):
    def __init__(self, n_users, n_items):
        super().__init__()
        BUILD
        self.users = nn.Embedding(n_users, 4)
        self.items = nn.Embedding(n_items, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, user, item):
        RUN
        return (self.drop(self.users(user)) * self.items(item)).sum(-1)
"""
AT_FORWARD = {
    "raise ValueError('of mine')": r"forward of .*'user': \(6,\).* raised ValueError: of mine",
    "return self.users(user) @ self.items(item)": r"raised RuntimeError: mat1 and mat2",
    "return self.missing(user)": r"raised AttributeError: .*'missing'",
    "return 'text'": r"gave str; expected 6 scores, one a row",
    "return None": r"gave NoneType; expected 6 scores",
    "return {'logits': user.float()}": r"gave dict; expected 6 scores",
    "return user.float(), item.float()": r"gave tuple; expected 6 scores",
    "return self.users(user)": r"gave a tensor of \(6, 4\); expected 6 scores",
    "return user.float().mean()": r"gave a tensor of \(\); expected 6 scores",
    "exit('now')": r"raised SystemExit: now",
}


def module_of(tiny: Any, folder: Path, *, built: str = "pass", run: str = "pass") -> nn.Module:
    path = folder / "model.py"
    path.write_text(SOURCE.replace("BUILD", built).replace("RUN", run))
    return build(tiny.schema, path=str(path), attribute="Rec")


@pytest.mark.parametrize(("line", "told"), AT_FORWARD.items(), ids=list(AT_FORWARD))
def test_a_forward_that_does_not_work(tiny: Any, tmp_path: Path, line: str, told: str) -> None:
    module = module_of(tiny, tmp_path, run=line)
    inputs = model_inputs(module, tiny.schema)
    with pytest.raises(DataError, match=rf"model\.py: .*{told}"):
        check_forward(module, inputs, where="model.py")


@pytest.mark.parametrize("training", [True, False])
def test_one_that_works_is_left_as_it_was(tiny: Any, tmp_path: Path, training: bool) -> None:
    module = module_of(tiny, tmp_path).train(training)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    check_forward(module, model_inputs(module, tiny.schema), where="model.py")
    assert module.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_one_score_a_row_may_have_an_axis_more(tiny: Any, tmp_path: Path) -> None:
    module = module_of(tiny, tmp_path, run="return user.float().unsqueeze(-1)")
    check_forward(module, model_inputs(module, tiny.schema), where="model.py")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("raise ValueError('of mine')", r"Rec\(\.\.\.\) can't be made: ValueError: of mine"),
        ("self.x = torch.zeros(2)[5]", r"Rec\(\.\.\.\) can't be made: IndexError"),
        ("exit('now')", r"Rec\(\.\.\.\) can't be made: SystemExit: now"),
        ("1 / 0", r"Rec\(\.\.\.\) can't be made: ZeroDivisionError"),
    ],
)
def test_a_class_that_cant_be_made(tiny: Any, tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        module_of(tiny, tmp_path, built=line)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("1 / 0\n", r"can't be imported: ZeroDivisionError"),
        ("raise SystemExit('bye')\n", r"can't be imported: SystemExit\('bye'\)"),
        ("open('not/there')\n", r"can't be imported: FileNotFoundError"),
        ("Rec = 3\n", r"Rec is no class or function, but 3"),
    ],
)
def test_a_file_that_cant_be_run(tiny: Any, tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "model.py").write_text(source)
    with pytest.raises(DataError, match=told):
        build(tiny.schema, path=str(tmp_path / "model.py"), attribute="Rec")


def test_what_the_project_says_of_itself_comes_through(tiny: Any, tmp_path: Path) -> None:
    raising = "from harness.errors import UnsupportedError; raise UnsupportedError('not here')"
    makes: list[Callable[[], Any]] = [lambda: module_of(tiny, tmp_path, built=raising)]
    module = module_of(tiny, tmp_path, run=raising)
    inputs = model_inputs(module, tiny.schema)
    makes.append(lambda: check_forward(module, inputs, where="model.py"))
    for make in makes:
        with pytest.raises(UnsupportedError, match=r"^not here$"):
            make()
