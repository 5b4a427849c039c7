import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.artifact import ModelSpec, read_artifact
from harness.checkpoints import read_tensors
from harness.errors import DataError, UnsupportedError
from harness.modules import (
    build_module,
    count_macs,
    count_parameters,
    example_feeds,
    linear_widths,
    load_module,
    load_weights,
    model_inputs,
    model_outputs,
    save_module,
)
from harness.objectives import predict
from harness.tables import TensorSpec


def mark_factory(path):
    class Mark:
        def __reduce__(self):
            return (open, (str(path), "w"))

    return Mark()


def scores(artifact, data):
    return predict(load_module(artifact), data, data.splits["test"], artifact.inputs)


def test_saved_and_loaded_scores_are_equal(tiny_artifact, tiny, tmp_path):
    module = load_module(tiny_artifact)
    assert not module.training
    folder = tmp_path / "again"
    folder.mkdir()
    again = save_module(module, tiny_artifact, folder)
    np.testing.assert_array_equal(scores(again, tiny), scores(tiny_artifact, tiny))
    assert read_artifact(folder) == again


def test_description_counts_by_hand(rec_artifact):
    # Tables of 41 and 31 rows of 8; Linear 16-16, 16-16, 16-1 with biases.
    assert rec_artifact.embedding_parameters == (41 + 31) * 8
    assert rec_artifact.parameters == (41 + 31) * 8 + 2 * (16 * 16 + 16) + 17
    assert rec_artifact.macs == 16 * 16 + 16 * 16 + 16
    assert rec_artifact.widths == {"f1": (16, 16), "f2": (16, 16), "out": (1, 16)}
    assert rec_artifact.bytes >= rec_artifact.file.stat().st_size > rec_artifact.parameters * 4


def test_pruned_widths_are_fitted_and_sizes_follow(rec_artifact, tiny, tmp_path):
    module = load_module(rec_artifact)
    kept = [0, 3, 9]
    module.f1.weight = nn.Parameter(module.f1.weight[kept])
    module.f1.bias = nn.Parameter(module.f1.bias[kept])
    module.f2.weight = nn.Parameter(module.f2.weight[:, kept])
    folder = tmp_path / "narrow"
    folder.mkdir()
    narrow = save_module(module, rec_artifact, folder)
    loaded = load_module(narrow)
    assert (loaded.f1.out_features, loaded.f1.in_features) == (3, 16)
    assert (loaded.f2.out_features, loaded.f2.in_features) == (16, 3)
    assert narrow.widths == linear_widths(loaded) == {"f1": (3, 16), "f2": (16, 3), "out": (1, 16)}
    assert count_parameters(loaded)[0] == narrow.parameters
    rows = torch.tensor([1, 2, 5])
    assert torch.equal(loaded(rows, rows), module(rows, rows))


def test_norms_are_fitted_with_their_sizes():
    def block(width):
        return nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.BatchNorm1d(width))

    small, large = block(3), block(8)
    load_weights(large, small.state_dict(), where="here", fit=True)
    assert large[1].normalized_shape == (3,)
    assert large[2].num_features == 3
    small.eval(), large.eval()
    x = torch.randn(5, 4)
    assert torch.equal(small(x), large(x))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path, tiny_artifact):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)
            self.out = nn.Linear(3, 5, bias=False)
            self.out.weight = self.table.weight

        def forward(self, user):
            return self.out(self.table(user))

    first, second = Tied(), Tied()
    inputs = (TensorSpec("user", "int64", ("rows",), ("household",)),)
    artifact = save_module(first, replace(tiny_artifact, inputs=inputs), _folder(tmp_path))
    stored = load_file(artifact.file)
    assert set(stored) == {"table.weight"}
    load_weights(second, stored, where="here")
    assert torch.equal(second.out.weight, first.table.weight)
    assert second.out.weight is second.table.weight


def _folder(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["evil.pt", "evil.safetensors", "evil.bin"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_with_more_than_weights_is_refused_unread(tmp_path, name, how):
    mark, evil = tmp_path / "MARK.txt", tmp_path / name
    if how == "torch":
        torch.save({"state_dict": mark_factory(mark)}, evil)
    else:
        evil.write_bytes(pickle.dumps({"w": mark_factory(mark)}, protocol=2))
    with pytest.raises(DataError, match="contains more than weights"):
        read_tensors(evil)
    assert not mark.exists()


def test_an_artifact_replaced_by_a_pickle_is_refused(rec_artifact, tmp_path):
    mark = tmp_path / "MARK.txt"
    torch.save({"state_dict": mark_factory(mark)}, rec_artifact.file)
    with pytest.raises(DataError, match=r"weights\.safetensors: refused: not a plain file"):
        load_module(rec_artifact)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04 cut", b"\x80\x02K\x01.", b"\x93NUMPY"]
)
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_broken_file_is_one_sentence(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^[^\n]*refused: [^\n]*more than weights[^\n]*$"):
        read_tensors(path)


def test_damaged_checkpoints_never_end_in_another_error(tmp_path):
    module, path = nn.Linear(2, 2), tmp_path / "w.pt"
    torch.save(module.state_dict(), path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole[: int(random.integers(1, len(whole)))])
        for at in random.integers(0, len(damaged), size=3):
            damaged[at] = int(random.integers(256))
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="more than weights"):
            read_tensors(path)


def test_a_cut_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="not a plain file of weights"):
        read_tensors(path)


def test_a_checkpoint_of_other_things_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": 3}, path)
    with pytest.raises(DataError, match=r"contains more than weights; save module\.state_dict\(\)"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["missing.pt", "missing.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: can't be read: No such file"):
        read_tensors(tmp_path / name)


def test_a_plain_state_dict_loads(tmp_path):
    module = nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "good.pt")
    other = nn.Linear(3, 2)
    load_weights(other, read_tensors(tmp_path / "good.pt"), where="good.pt")
    assert torch.equal(other.weight, module.weight)


def test_wrong_weights_are_refused_with_all_key_names():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    tensors = {
        "0.weight": torch.ones(2, 4),
        "0.bias": torch.tensor([1.0, float("nan")]),
        "1.weight": torch.ones(1, 2),
        "head.weight": torch.ones(1),
    }
    with pytest.raises(DataError) as caught:
        load_weights(module, tensors, where="bad.pt")
    assert str(caught.value) == (
        "bad.pt: weights don't fit the model: missing 1.bias; unexpected head.weight; "
        "0.weight has shape (2, 4), the model (2, 3); not finite: 0.bias"
    )
    assert not torch.isnan(module[0].bias).any()


def test_infinite_weights_of_an_artifact_are_refused(rec_artifact):
    tensors = load_file(rec_artifact.file)
    tensors["f1.weight"][0, 0] = float("inf")
    save_file(tensors, rec_artifact.file)
    with pytest.raises(DataError, match=r"not finite: f1\.weight"):
        load_module(rec_artifact)


def test_a_changed_class_is_told(rec_artifact):
    source = rec_artifact.folder / "model.py"
    source.write_text(source.read_text().replace("self.f2", "self.middle"))
    with pytest.raises(DataError, match=r"missing middle\.bias, middle\.weight; unexpected f2\."):
        load_module(rec_artifact)


def test_inputs_of_request_shaped_and_flat_models(tiny, tiny_artifact, rec_artifact):
    shapes = {spec.name: (spec.shape, spec.fields, spec.dtype) for spec in tiny_artifact.inputs}
    assert shapes == {
        "user": (("requests", 1), ("household",), "int64"),
        "candidates": (("requests", "candidates", 2), ("product", "brand"), "int64"),
        "context": (("requests", 1), ("weekday",), "int64"),
        "user_values": (("requests", 1), ("spend",), "float32"),
        "candidate_values": (("requests", "candidates", 1), ("price",), "float32"),
    }
    assert tiny_artifact.outputs == model_outputs(object(), tiny_artifact.inputs)
    assert tiny_artifact.outputs[0].shape == ("requests", "candidates")
    assert rec_artifact.inputs == (
        TensorSpec("user", "int64", ("rows",), ("household",)),
        TensorSpec("item", "int64", ("rows",), ("product",)),
    )
    assert rec_artifact.outputs[0].shape == ("rows",)


def test_flat_inputs_may_name_fields_and_all_numbers(tiny):
    class Flat(nn.Module):
        def forward(self, brand, price, dense):
            return brand

    assert model_inputs(Flat(), tiny.schema) == (
        TensorSpec("brand", "int64", ("rows",), ("brand",)),
        TensorSpec("price", "float32", ("rows",), ("price",)),
        TensorSpec("dense", "float32", ("rows", 2), ("spend", "price")),
    )


def test_an_input_that_names_nothing_is_refused(tiny):
    class Flat(nn.Module):
        def forward(self, produkt):
            return produkt

    message = "model input 'produkt' names no field of the data; did you mean 'product'"
    with pytest.raises(UnsupportedError, match=message):
        model_inputs(Flat(), tiny.schema)


def test_example_feeds_have_the_asked_sizes(tiny_artifact, rec_artifact):
    feeds = example_feeds(tiny_artifact.inputs, requests=2, candidates=5)
    assert feeds["user"].shape == (2, 1)
    assert feeds["candidates"].shape == (2, 5, 2)
    assert feeds["candidates"].dtype == torch.int64
    assert feeds["candidate_values"].dtype == torch.float32
    flat = example_feeds(rec_artifact.inputs, requests=2, candidates=5)
    assert flat["user"].shape == (10,)


def test_seed_decides_the_first_weights_and_leaves_the_global_one_alone(tiny, tmp_path):
    spec = ModelSpec("mlp", {"dim": 4, "widths": [8]})
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one, two, other = (
        build_module(spec, tiny.schema, folder=tmp_path, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.top[0].weight, two.top[0].weight)
    assert not torch.equal(one.top[0].weight, other.top[0].weight)


def test_macs_are_counted_in_eval_mode_and_the_mode_is_kept(tiny_artifact):
    module = load_module(tiny_artifact).train()
    macs = count_macs(module, tiny_artifact.inputs)
    assert module.training
    # Bottom 2-16-8, dots of 5 vectors of 8 (all 25), top 18-32-16-1.
    assert macs == 2 * 16 + 16 * 8 + 25 * 8 + 18 * 32 + 32 * 16 + 16


def test_no_pickled_file_is_made(tiny_artifact):
    assert sorted(os.listdir(tiny_artifact.folder)) == [
        "artifact.json",
        "schema.json",
        "vocabulary.json",
        "weights.safetensors",
    ]
