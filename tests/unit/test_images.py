"""Pictures as they come: read as torchvision reads them, or refused with a 4xx."""

from __future__ import annotations

import base64
import importlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from modelswitch import handlers
from modelswitch.archive import recipe as recipes
from modelswitch.archive.document import Signature
from modelswitch.archive.flavors.parts import Parts
from modelswitch.archive.pictures import resolved
from modelswitch.archive.source import Found
from modelswitch.errors import ArchiveError


@pytest.fixture(autouse=True)
def flat_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(handlers.__file__).parent))


def images(**recipe: Any) -> Any:
    filled = resolved(recipes.Image.model_validate(recipe), "pets@1")
    return importlib.import_module("modelswitch_images").Images(filled.model_dump(mode="json"))


def request(content: Any, kind: str = "image/jpeg") -> Any:
    return importlib.import_module("modelswitch_protocol").Request(content, {}, kind)


def refusal() -> Any:
    return importlib.import_module("modelswitch_protocol").Invalid


def picture(mode: str = "RGB", size: tuple[int, int] = (91, 67)) -> Image.Image:
    """Shapes and noise, so that resizing has edges to go wrong at."""
    width, height = size
    rng = np.random.default_rng(width * 1000 + height)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 4), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert("RGBA").convert(mode)


def as_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


FILES = {
    "jpeg": as_file(picture(), "JPEG", quality=90),
    "progressive jpeg": as_file(picture(), "JPEG", progressive=True),
    "grey jpeg": as_file(picture("L"), "JPEG"),
    "cmyk jpeg": as_file(picture("CMYK"), "JPEG"),
    "png": as_file(picture(), "PNG"),
    "grey png": as_file(picture("L"), "PNG"),
    "rgba png": as_file(picture("RGBA"), "PNG"),
    "grey and alpha png": as_file(picture("LA"), "PNG"),
    "palette png": as_file(picture("P"), "PNG"),
    "bilevel png": as_file(picture("1"), "PNG"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    ("size", "crop", "interpolation"),
    [(40, 32, "bilinear"), (41, 33, "bicubic"), (100, 90, "bilinear"), (32, 48, "nearest")],
)
def test_pixels_are_those_of_torchvision(
    kind: str, size: int, crop: int, interpolation: str
) -> None:
    content = FILES[kind]
    reader = images(size=size, crop=crop, interpolation=interpolation)

    found = reader.normalised(reader.read(request(content)))

    transforms = ImageClassification(
        resize_size=size, crop_size=crop, interpolation=InterpolationMode(interpolation)
    )
    wanted = transforms(Image.open(io.BytesIO(content)).convert("RGB"))[None]
    # A grey value is 1/255/0.225 of these: equal, but for the last bits of a float.
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(33, 90), (90, 33), (224, 224), (1, 7), (300, 2)])
def test_every_shape_is_resized_and_cropped_as_torchvision_does(size: tuple[int, int]) -> None:
    content = as_file(picture(size=size), "PNG")

    found = images(size=50, crop=45).read(request(content))

    transforms = ImageClassification(resize_size=50, crop_size=45, mean=(0.0,) * 3, std=(1.0,) * 3)
    wanted = transforms(Image.open(io.BytesIO(content)).convert("RGB")) * 255
    assert np.array_equal(found[0], wanted.round().numpy().astype(np.uint8))


def test_a_picture_stands_as_its_camera_was_held() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    upright = picture(size=(60, 40))
    turned = as_file(upright, "PNG", exif=exif)

    found = images().read(request(turned))

    assert found.shape == (1, 3, 60, 40)
    assert np.array_equal(found[0], np.asarray(upright.rotate(-90, expand=True)).transpose(2, 0, 1))


@pytest.mark.parametrize(
    "notes", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_broken_notes_of_a_camera_are_no_broken_picture(notes: bytes) -> None:
    content = as_file(picture(), "JPEG", exif=notes)

    assert images().read(request(content)).shape == (1, 3, 67, 91)


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    content = as_file(Image.fromarray(ramp), "PNG")

    found = images(mean=[0.5], std=[0.5]).read(request(content))

    assert np.array_equal(found[0, 0], (ramp >> 8).astype(np.uint8))


def test_one_channel_for_a_model_of_grey_pictures() -> None:
    found = images(mean=[0.0], std=[1.0], size=8, crop=8).read(request(FILES["jpeg"]))

    assert found.shape == (1, 1, 8, 8)


def test_several_pictures_come_in_base64() -> None:
    rows = [base64.b64encode(FILES[kind]).decode() for kind in ("png", "rgba png")]
    body = {"inputs": [{"b64": rows[0]}, rows[1]]}

    found = images(size=16, crop=16).read(request(json.dumps(body).encode(), "application/json"))

    assert found.shape == (2, 3, 16, 16)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "text/plain", ""])
def test_what_is_in_it_counts_and_not_what_it_is_called(kind: str) -> None:
    found = images().read(request(bytearray(FILES["jpeg"]), kind))

    assert found.shape == (1, 3, 67, 91)


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def huge(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that claims so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def encoded(content: bytes) -> bytes:
    return json.dumps({"inputs": [{"b64": base64.b64encode(content).decode()}]}).encode()


BAD: dict[str, tuple[int, bytes, str]] = {
    "cut jpeg": (422, FILES["jpeg"][:-500], "image/jpeg"),
    "cut in its header": (422, FILES["jpeg"][:20], "image/jpeg"),
    "cut png": (422, FILES["png"][:200], "image/png"),
    "nothing": (400, b"", "image/png"),
    "noise": (422, b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "image/png"),
    "gif": (422, as_file(picture(), "GIF"), "image/gif"),
    "text": (422, b"hello", "image/jpeg"),
    "claims 60 million pixels": (422, huge(10_000, 6_000), "image/png"),
    "claims 3 billion pixels": (422, huge(60_000, 50_000), "image/png"),
    "a line of a million pixels": (422, as_file(picture(size=(300_000, 1)), "PNG"), "image/png"),
    "no base64": (422, b'{"inputs": [{"b64": "%%%"}]}', "application/json"),
    "no text": (422, b'{"inputs": [{"b64": 3}]}', "application/json"),
    "no picture in it": (422, encoded(b"abc"), "application/json"),
    "cut picture in it": (422, encoded(FILES["jpeg"][:-500]), "application/json"),
    "no list": (422, b'{"inputs": {"b64": ""}}', "application/json"),
    "empty": (422, b'{"inputs": []}', "application/json"),
    "another form": (400, b'{"dataframe_split": {}}', "application/json"),
    "no json": (400, b"{", "application/json"),
}


@pytest.mark.parametrize("why", BAD)
def test_bad_pictures_are_the_callers_to_mend(why: str) -> None:
    status, content, kind = BAD[why]

    with pytest.raises(refusal()) as refused:
        images(size=224, crop=224).read(request(content, kind))

    assert refused.value.status == status


def test_a_picture_of_another_size_is_not_stacked_with_the_first() -> None:
    rows = [base64.b64encode(as_file(picture(size=s), "PNG")).decode() for s in ((9, 9), (9, 8))]
    body = json.dumps({"inputs": rows}).encode()

    with pytest.raises(refusal()) as refused:
        images().read(request(body, "application/json"))

    assert "different sizes" in refused.value.message


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_no_cut_or_flipped_byte_is_more_than_a_4xx(cut: int) -> None:
    rng = np.random.default_rng(cut)
    for content in FILES.values():
        broken = bytearray(content)
        for place in rng.integers(0, len(broken), 12):
            broken[place] = int(rng.integers(0, 256))
        assert status_of(images(size=16, crop=16), broken) in (200, 422)


def status_of(reader: Any, content: bytes | bytearray) -> int:
    try:
        reader.read(request(content))
    except refusal() as refused:
        return int(refused.status)
    return 200  # a decoder may make something of it


def test_answers_are_the_best_labels_with_probabilities() -> None:
    logits = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 9.0]], np.float32)
    wanted = torch.from_numpy(logits).softmax(1)

    found = images(labels=["cat", "dog", "eel"], top=2).answer(logits)

    assert [[row["label"] for row in rows] for rows in found] == [["dog", "eel"], ["eel", "cat"]]
    assert found[0][0]["score"] == pytest.approx(wanted[0, 1].item())
    assert images(top=9, output="probabilities").answer(logits)[0][0] == {
        "label": "1",
        "score": 3.0,
    }


def test_of_equal_scores_the_first_is_named_first_and_nothing_is_better_than_a_number() -> None:
    scores = np.array([[0.1, 0.3, 0.2, 0.3, 0.1], [np.nan, 0.5, np.nan, 0.2, np.nan]], np.float32)
    found = images(top=3, output="probabilities").answer(scores)
    assert [[one["label"] for one in row] for row in found] == [["1", "3", "2"], ["1", "3", "0"]]


def test_weights_say_what_the_recipe_does_not() -> None:
    named: Callable[..., Any] = lambda **more: resolved(  # noqa: E731
        recipes.Image(weights="EfficientNet_B0_Weights.IMAGENET1K_V1", **more), "pets@1"
    )

    found, other = named(), named(crop=100, labels=["a"])

    assert (found.size, found.crop, found.interpolation) == (256, 224, "bicubic")
    assert found.labels is not None
    assert len(found.labels) == 1000
    assert (other.size, other.crop, other.labels) == (256, 100, ["a"])
    assert resolved(found, "pets@1") == found


@pytest.mark.parametrize("name", ["No_Such_Weights.V1", "Raft_Small_Weights.C_T_V1"])
def test_weights_that_are_no_classifiers_are_refused(name: str) -> None:
    with pytest.raises(ArchiveError):
        resolved(recipes.Image(weights=name), "pets@1")


def taking(*shape: int, **entries: Path) -> Found:
    """A version whose one input has that shape, -1 for any length; its files by their endings."""
    spec = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": list(shape)}}
    files = {f"model.{ending}": path for ending, path in entries.items()}
    return Found(Parts("onnx", files, None), Signature(inputs=[spec]), None, ())


def cut_of(found: Found, **recipe: Any) -> tuple[int | None, int | None]:
    filled = resolved(recipes.Image.model_validate(recipe), "pets@1", found)
    return filled.size, filled.crop


def test_pictures_are_cut_to_the_one_square_that_a_model_takes() -> None:
    fixed, free = taking(-1, 3, 32, 32), taking(-1, 3, -1, -1)

    assert cut_of(fixed) == (32, 32)
    assert cut_of(fixed, size=40) == (40, 32)
    assert cut_of(fixed, crop=24) == (None, 24)
    assert cut_of(fixed, size=40, crop=24) == (40, 24)
    assert cut_of(free) == (None, None)
    assert cut_of(taking(-1, 3, 32, -1)) == (None, None)
    assert cut_of(taking(-1, 10)) == (None, None)
    named = resolved(
        recipes.Image(weights="EfficientNet_B0_Weights.IMAGENET1K_V1"), "pets@1", fixed
    )
    assert (named.size, named.crop) == (256, 224)


def test_a_model_of_rectangles_is_refused_with_what_to_do() -> None:
    with pytest.raises(ArchiveError, match="32 × 48 pixels") as refused:
        cut_of(taking(-1, 3, 32, 48))

    assert 'input = "json"' in (refused.value.next or "")


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
@pytest.mark.parametrize("is_fixed", [True, False])
def test_what_the_signature_leaves_open_the_graph_fixes(
    ending: str, is_fixed: bool, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{ending}"
    if ending == "onnx":
        import onnx
        from onnx import TensorProto, helper

        spec = [TensorProto.FLOAT, ["n", 3, 16, 16] if is_fixed else ["n", 3, "h", None]]
        x, y = (helper.make_tensor_value_info(name, *spec) for name in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
        onnx.save(helper.make_model(graph), path)
    else:
        any_length = torch.export.Dim.DYNAMIC
        free = {0: any_length} if is_fixed else dict.fromkeys((0, 2, 3), any_length)
        program = torch.export.export(
            torch.nn.ReLU(), (torch.zeros(2, 3, 16, 16),), dynamic_shapes=(free,)
        )
        torch.export.save(program, path)

    found = cut_of(taking(-1, 3, -1, -1, **{ending: path}))

    assert found == ((16, 16) if is_fixed else (None, None))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ((-1, 3, 32, 32), "67 × 91 pixels (height × width) as it came; the model takes 32 × 32"),
        ((-1, 3, -1, 32), "the model takes any × 32 pixels"),
        ((2, 3, 67, 91), "pictures sent: 1; the model takes 2 at a time"),
        ((-1, 1, 67, 91), "read with 3 channels and the model takes 1"),
    ],
)
def test_pictures_of_another_shape_are_refused_in_plain_words(
    wanted: tuple[int, ...], words: str
) -> None:
    reader = images()
    found = reader.read(request(FILES["jpeg"])).shape

    with pytest.raises(refusal()) as refused:
        reader.check(found, wanted)

    assert refused.value.status == 422
    assert words in refused.value.message
    reader.check(found, (-1, 3, -1, 91))
