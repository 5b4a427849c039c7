"""FM, DeepFM and DCN-V2: scores by hand, pairs counted once, requests score like their rows."""

from itertools import combinations

import numpy as np
import pytest
import torch

from harness.models import dcn_v2, deepfm, fm
from harness.modules import model_inputs
from harness.objectives import predict
from harness.tables import Prepared, feeds

BUILDS = {
    "fm": lambda schema: fm.build(schema, dim=4),
    "deepfm": lambda schema: deepfm.build(schema, dim=4, widths=(8, 6)),
    "dcn_v2": lambda schema: dcn_v2.build(schema, dim=4, layers=2, widths=(8,)),
    "dcn_v2 of rank 3": lambda schema: dcn_v2.build(schema, dim=4, layers=2, rank=3, widths=(8,)),
}


@pytest.fixture(params=BUILDS)
def module(request, tiny: Prepared) -> torch.nn.Module:
    torch.manual_seed(0)
    return BUILDS[request.param](tiny.schema).eval()


def batch(tiny: Prepared, module: torch.nn.Module, rows: np.ndarray) -> dict[str, torch.Tensor]:
    arrays = feeds(tiny.schema, tiny.splits["test"], rows, model_inputs(module, tiny.schema))
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def looked_up(module, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (fields, dim) and numbers of the first candidate of the first request."""
    household, weekday, product, brand = module.inputs.tables
    vectors = torch.stack(
        [
            household.weight[given["user"][0, 0]],
            weekday.weight[given["context"][0, 0]],
            product.weight[given["candidates"][0, 0, 0]],
            brand.weight[given["candidates"][0, 0, 1]],
        ]
    )
    return vectors, torch.cat([given["user_values"][0], given["candidate_values"][0, 0]])


def test_a_request_scores_like_its_rows_alone(module, tiny: Prepared) -> None:
    split = tiny.splits["test"]
    alone = predict(module, tiny, split, model_inputs(module, tiny.schema))
    rows = np.arange(split.offsets[5], split.offsets[6])[None]
    with torch.no_grad():
        together = module(**batch(tiny, module, rows))
    np.testing.assert_allclose(together[0].numpy(), alone[rows[0]], atol=1e-5)


def by_hand(module, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """A factorisation machine's logit as its definition has it: one dot product a pair."""
    vectors, values = looked_up(module, given)
    linear = module.fm.first(torch.cat([vectors.flatten(), values]))
    every = [*vectors, *(values.unsqueeze(1) * module.fm.factors)]
    return linear + sum(a @ b for a, b in combinations(every, 2))


def test_a_factorisation_machine_is_the_sum_over_pairs(tiny: Prepared) -> None:
    torch.manual_seed(0)
    module = fm.build(tiny.schema, dim=4).eval()
    given = batch(tiny, module, np.array([[9]]))
    assert module(**given).item() == pytest.approx(by_hand(module, given).item(), abs=1e-5)


def test_deepfm_adds_an_mlp_of_the_same_features(tiny: Prepared) -> None:
    torch.manual_seed(0)
    module = deepfm.build(tiny.schema, dim=4, widths=(8, 6)).eval()
    given = batch(tiny, module, np.array([[9]]))
    vectors, values = looked_up(module, given)
    deep = module.deep(torch.cat([vectors.flatten(), values]))
    expected = (by_hand(module, given) + deep).item()
    assert module(**given).item() == pytest.approx(expected, abs=1e-5)


def test_cross_layers_by_hand(tiny: Prepared) -> None:
    torch.manual_seed(0)
    module = dcn_v2.build(tiny.schema, dim=4, layers=2, widths=(8,)).eval()
    given = batch(tiny, module, np.array([[9]]))
    vectors, values = looked_up(module, given)
    x0 = torch.cat([vectors.flatten(), values])
    x1 = x0 * (module.cross[0].weight @ x0 + module.cross[0].bias) + x0
    x2 = x0 * (module.cross[1].weight @ x1 + module.cross[1].bias) + x1
    expected = module.top(torch.cat([x2, module.deep(x0)])).item()
    assert module(**given).item() == pytest.approx(expected, abs=1e-5)


def test_a_low_rank_cross_layer_has_fewer_weights(tiny: Prepared) -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.cross.parameters())

    width = 4 * 4 + 2  # four fields of 4, two numbers
    full = dcn_v2.build(tiny.schema, dim=4, layers=2, widths=(8,))
    low = dcn_v2.build(tiny.schema, dim=4, layers=2, rank=3, widths=(8,))
    assert count(full) == 2 * (width * width + width)
    assert count(low) == 2 * (2 * 3 * width + width)


def test_a_dcn_without_an_mlp_is_refused(tiny: Prepared) -> None:
    with pytest.raises(ValueError, match="widths is empty"):
        dcn_v2.build(tiny.schema, widths=())
