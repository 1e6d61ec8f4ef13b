import onnx
import onnx.parser
import onnx_ir as ir

from vqonnx.graph.domains import imported_domains

MODEL = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21, "com.amd.quark": 1]>
    g (float[N] x) => (float[N] y) { y = com.amd.quark.MXQuantizeDequantize(x) }""")


def test_a_file_and_a_model_name_the_same_domains(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(MODEL, path)
    assert imported_domains(path) == imported_domains(ir.from_proto(MODEL)) == {"", "com.amd.quark"}


def test_domains_of_functions_count():
    function = onnx.parser.parse_function("""<domain: "local", opset_import: ["other": 1]>
        f (x) => (y) { y = other.F(x) }""")
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    model.functions.append(function)
    assert imported_domains(ir.from_proto(model)) == {"", "com.amd.quark", "other"}


def test_a_file_that_cannot_be_read_has_none(tmp_path):
    broken, empty = tmp_path / "broken.onnx", tmp_path / "empty.onnx"
    broken.write_bytes(b"\xff" * 100)
    empty.write_bytes(b"")
    for path in (broken, empty, tmp_path / "absent.onnx"):
        assert imported_domains(path) == frozenset()
