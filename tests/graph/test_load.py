import os
import shutil

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from vqonnx.errors import ModelError
from vqonnx.graph import walk
from vqonnx.graph.io import load, save
from vqonnx.graph.proto import to_proto

WEIGHT = np.arange(1024, dtype=np.float32).reshape(32, 32)
CONTENT = WEIGHT.tobytes()


def linear(weight: onnx.TensorProto | None = None, **graph_fields: object) -> onnx.ModelProto:
    tensor = numpy_helper.from_array(WEIGHT, "w") if weight is None else weight
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32]) for name in "xy")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")
    graph = helper.make_graph([node], "g", [x], [y], [tensor], **graph_fields)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external_model(folder, location="w.bin", offset=None, length=None, data=CONTENT):
    """A model whose weight lies at ``location``; the file is written only for a plain name."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[32, 32], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    if data is not None:
        (folder / "w.bin").write_bytes(data)
    path = folder / "m.onnx"
    path.write_bytes(linear(tensor).SerializeToString())
    return path


def weight_of(model: ir.Model) -> np.ndarray:
    return model.graph.initializers["w"].const_value.numpy()


def test_a_file_loads_and_comes_back_equal(tmp_path):
    proto = linear()
    onnx.save(proto, tmp_path / "m.onnx")
    for source in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), proto):
        model = load(source)
        np.testing.assert_array_equal(weight_of(model), WEIGHT)
        assert to_proto(model).graph.node == proto.graph.node


def test_external_data_stays_in_its_file(tmp_path):
    model = load(external_model(tmp_path))
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None  # not even mapped yet
    np.testing.assert_array_equal(tensor.numpy(), WEIGHT)


def test_external_data_is_found_from_another_folder(tmp_path, monkeypatch):
    external_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = load("m.onnx")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(weight_of(model), WEIGHT)


def test_a_download_cache_of_links_loads(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    shutil.move(external_model(tmp_path), tmp_path / "blobs" / "aa")
    shutil.move(tmp_path / "w.bin", tmp_path / "blobs" / "bb")
    (tmp_path / "snapshot" / "m.onnx").symlink_to("../blobs/aa")
    (tmp_path / "snapshot" / "w.bin").symlink_to("../blobs/bb")
    np.testing.assert_array_equal(weight_of(load(tmp_path / "snapshot" / "m.onnx")), WEIGHT)


def test_hard_links_load(tmp_path):
    path = external_model(tmp_path)
    os.link(tmp_path / "w.bin", tmp_path / "again.bin")
    np.testing.assert_array_equal(weight_of(load(path)), WEIGHT)


def test_the_callers_proto_never_changes():
    proto = linear()
    before = proto.SerializeToString()
    model = load(proto)
    model.graph.initializers["w"].name = "renamed"
    model.graph.inputs[0].dtype = ir.DataType.FLOAT16
    to_proto(model)
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("external", [False, True])
def test_the_callers_ir_never_changes(tmp_path, external):
    path = external_model(tmp_path) if external else None
    original = ir.load(path) if external else ir.serde.deserialize_model(linear())
    before = ir.serde.serialize_model(original)
    model = load(original)
    model.graph.initializers["w"].name = "renamed"
    model.graph.inputs[0].dtype = ir.DataType.FLOAT16
    model.graph.outputs[0].name = "z"
    np.testing.assert_array_equal(model.graph.initializers["renamed"].const_value.numpy(), WEIGHT)
    model.graph.initializers["renamed"].const_value = None
    assert ir.serde.serialize_model(original) == before


def refused(source, match: str) -> ModelError:
    with pytest.raises(ModelError, match=match) as caught:
        load(source)
    return caught.value


def test_a_missing_file_is_named(tmp_path):
    error = refused(tmp_path / "no.onnx", "No such file or directory. Check the path")
    assert error.path == str(tmp_path / "no.onnx")


def test_a_folder_is_no_model(tmp_path):
    refused(tmp_path, "cannot read model")


def test_an_empty_file_is_no_model(tmp_path):
    (tmp_path / "m.onnx").touch()
    refused(tmp_path / "m.onnx", "has no graph and no opset")


def test_every_cut_of_a_file_is_refused(tmp_path):
    whole = linear().SerializeToString()
    path = tmp_path / "m.onnx"
    for size in [*range(1, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(path, "cut off")


def test_noise_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refused(path, "is not an ONNX model")


def test_a_file_beyond_protobuf_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    refused(path, "3,221,225,472 bytes; one ONNX message holds at most 2,147,483,647. Save the model with external")


def test_missing_external_data_is_refused(tmp_path):
    refused(external_model(tmp_path, data=None), "external data file .*w.bin.* of tensor 'w' is missing")


@pytest.mark.parametrize(
    ("size", "offset", "length"),
    [(4095, None, None), (4096, 1, None), (4096, 64, 4096), (4096, 0, 100)],
)
def test_too_short_external_data_is_refused(tmp_path, size, offset, length):
    path = external_model(tmp_path, offset=offset, length=length, data=bytes(size))
    refused(path, f"has {size:,} bytes, but tensor 'w' takes 4,096 from offset")


def test_a_negative_offset_is_refused(tmp_path):
    refused(external_model(tmp_path, offset=-4), "is not valid ONNX: ValueError: .*-4")


def test_a_huge_claim_is_refused_without_allocating(tmp_path):
    path = external_model(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 20]
    path.write_bytes(proto.SerializeToString())
    refused(path, "4,611,686,018,427,387,904")
    proto.graph.initializer[0].dims[:] = [-32, 32]
    path.write_bytes(proto.SerializeToString())
    refused(path, "negative dimension")


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../w.bin", "a/../../w.bin", r"..\w.bin", "C:/w.bin", r"\w", "", "w\0.bin"]
)
def test_paths_out_of_the_folder_are_refused(tmp_path, location):
    refused(external_model(tmp_path, location), "not a path below the model's folder")


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "model").mkdir()
    path = external_model(tmp_path / "model")
    shutil.move(tmp_path / "model" / "w.bin", tmp_path / "secret")
    (tmp_path / "model" / "w.bin").symlink_to(tmp_path / "secret")
    refused(path, "is a link to .*secret', outside the model's folder")


def test_a_proto_with_external_data_does_not_know_its_folder(tmp_path):
    proto = onnx.load(external_model(tmp_path), load_external_data=False)
    refused(proto, "tensor 'w' of the ModelProto lies in the file 'w.bin'")


def test_an_ir_model_with_missing_data_is_refused(tmp_path):
    model = ir.load(external_model(tmp_path))
    (tmp_path / "w.bin").unlink()
    refused(model, "is missing")


def test_an_external_constant_is_checked_and_saved_inline(tmp_path):
    proto = onnx.load(external_model(tmp_path), load_external_data=False)
    constant = helper.make_node("Constant", [], ["w"], value=proto.graph.initializer[0])
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, constant)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    save(load(path), tmp_path / "out.onnx")
    (tmp_path / "w.bin").unlink()
    saved = onnx.load(tmp_path / "out.onnx").graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(saved), WEIGHT)
    refused(path, "is missing")


def test_training_information_is_not_dropped_silently():
    proto = linear()
    proto.training_info.add()
    refused(proto, r"carries training_info.*Remove it first")


def test_a_value_that_nothing_produces_is_refused():
    proto = linear()
    proto.graph.node[0].input[1] = "gone"
    refused(proto, r"node 'mm' \(MatMul\) reads 'gone', which nothing produces")


def test_an_output_that_nothing_produces_is_refused():
    proto = linear()
    proto.graph.output[0].name = "gone"
    refused(proto, "the output list of graph 'g' reads 'gone'")


def test_a_broken_field_is_refused():
    proto = linear()
    proto.graph.initializer[0].data_type = 99
    refused(proto, "is not valid ONNX: .*99")


def test_unsorted_nodes_are_sorted():
    proto = linear()
    proto.graph.node.insert(0, helper.make_node("Relu", ["y"], ["z"]))
    model = load(proto)
    assert [node.op_type for node in model.graph] == ["MatMul", "Relu"]


def test_a_cycle_is_refused():
    proto = linear()
    proto.graph.node[0].input[0] = "z"
    proto.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    refused(proto, "has a cycle")


def test_an_unsorted_ir_model_is_refused():
    model = ir.serde.deserialize_model(linear())
    relu = ir.node("Relu", [model.graph.outputs[0]])
    model.graph.insert_before(model.graph[0], relu)
    refused(model, r"cannot be copied.*model.graph.sort\(\)")


def test_initializers_of_old_files_are_constants():
    proto = linear()
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [32, 32]))
    model = load(proto)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert walk.constant(model.graph.initializers["w"]) is not None


def test_quantization_annotations_survive(tmp_path):
    proto = linear()
    annotation = proto.graph.quantization_annotation.add(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    save(load(load(proto)), tmp_path / "m.onnx")
    assert list(onnx.load(tmp_path / "m.onnx").graph.quantization_annotation) == [annotation]


def test_a_model_beyond_2_gib_has_no_proto(tmp_path):
    path = external_model(tmp_path)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(3 << 30)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].dims[:] = [3 << 14, 1 << 14]
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="3,221,225,472 bytes, but a ModelProto holds at most"):
        to_proto(load(path))


def test_to_proto_reads_external_data(tmp_path):
    proto = to_proto(load(external_model(tmp_path)))
    np.testing.assert_array_equal(numpy_helper.to_array(proto.graph.initializer[0]), WEIGHT)


def test_constants_and_attributes_without_a_type_are_refused():
    untyped = linear()
    untyped.graph.initializer[0].data_type = TensorProto.UNDEFINED
    with pytest.raises(ModelError, match="'w' has no type"):
        load(untyped)
    odd = linear()
    odd.graph.node[0].attribute.add(name="mode")
    with pytest.raises(ModelError, match="'mode' of node 'mm' has no type"):
        load(odd)


def test_text_that_is_no_text_is_refused_when_it_is_written(tmp_path):
    noted = linear()
    noted.graph.initializer[0].doc_string = "a note"
    (tmp_path / "m.onnx").write_bytes(noted.SerializeToString().replace(b"a note", b"\xff note"))
    with pytest.raises(ModelError, match="cannot be written: UnicodeDecodeError"):
        save(load(tmp_path / "m.onnx"), tmp_path / "out.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_strings_in_a_data_file_are_refused(tmp_path):
    path = external_model(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].data_type = TensorProto.STRING
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="strings in a data file"):
        load(path)


def test_a_size_below_zero_is_any_size():
    proto = linear()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    for model in (load(proto), load(ir.from_proto(proto))):
        for value in (*model.graph.inputs, *model.graph.outputs):
            assert value.shape[1] == 32
            assert not isinstance(value.shape[0], int)
