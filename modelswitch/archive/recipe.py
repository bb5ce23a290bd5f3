"""How a version is served (hashed into its archive), and what is said about it (not hashed)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from modelswitch import handlers
from modelswitch.errors import UsageError

Handler = Literal["auto", "torch", "onnx", "sklearn", "pyfunc"]
Engine = Literal["eager", "onnx", "compile", "int8", "bf16"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _on_a_machine(size: int) -> int:
    if size > 1 << 62:  # the kernel's own limits end at 2**63 - 1
        raise ValueError("more bytes than any machine has")
    return size


_Positive = Annotated[float, Field(gt=0)]
_Bytes = Annotated[int, AfterValidator(_on_a_machine)]


class Image(_Strict):
    """How a JPEG or PNG becomes the model's input, and its answer labels.

    The shorter side is resized to `size` pixels, the middle `crop` × `crop` is cut out, each
    channel becomes `(value / 255 - mean) / std`, as torchvision's transforms for classification
    do. `labels` name the classes; `top` of them are answered, best first, with probabilities:
    of `output` logits the softmax is taken. `weights` name torchvision's, as in
    `MobileNet_V3_Small_Weights.IMAGENET1K_V1`, whose transforms and categories stand for what is
    not given, and else ImageNet's mean and std and bilinear do; a build writes all out.
    """

    weights: Annotated[str, Field(pattern=r"^\w{1,80}\.\w{1,80}$")] | None = None
    size: Annotated[int, Field(ge=1, le=8192)] | None = None
    crop: Annotated[int, Field(ge=1, le=8192)] | None = None
    mean: Annotated[list[float], Field(min_length=1, max_length=3)] | None = None
    std: Annotated[list[_Positive], Field(min_length=1, max_length=3)] | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    labels: Annotated[list[str], Field(max_length=100_000)] | None = None
    top: Annotated[int, Field(ge=1, le=1000)] = 5
    output: Literal["logits", "probabilities"] = "logits"

    @model_validator(mode="after")
    def _channels(self) -> Self:
        mean, std = self.mean or [], self.std or []
        if len(mean) not in (0, 1, 3) or len(mean) != len(std):
            raise ValueError("mean and std come together, one number for each channel, 1 or 3")
        return self

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, ImageNet's where nothing says else."""
        return self.mean or [0.485, 0.456, 0.406], self.std or [0.229, 0.224, 0.225]

    @property
    def channels(self) -> int:
        return len(self.normalisation[0])


class Recipe(_Strict):
    """All that shapes the answers but the number of workers.

    `handler` auto: by what was logged (torch, onnx, sklearn where its columns are numbers, else
    pyfunc); an archive's own document names the one it has. `batch_size` 1: a request never
    waits for others, so a lone client pays nothing. Larger batches wait up to
    `max_batch_delay_ms` for company and are answered in one forward pass; 0 waits for nobody
    and takes at most one that is there already. `threads` is per worker: 1, since workers are
    what uses the other cores. `topk` compares golden answers by their k best places along the
    last axis instead of by every number. `allow_pickle`: unpickling a module runs what is in
    it. `module`: the class, or what makes one without arguments, that a torch state dict
    belongs to: `net:Net`. `memory_limit_bytes` is a worker's private memory: a request that
    would need more is answered 507, and nothing else on the machine has less for it.
    `calibration` is the digest of the data that int8 was calibrated with (none: the input
    example), which `build --data` and `engines --data` tell.
    """

    handler: Handler = "auto"
    handler_release: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] = ""
    engine: Engine = "eager"
    input: Literal["json", "image"] = "json"
    image: Image | None = None
    device: Annotated[str, Field(pattern=r"^(cpu|gpu|gpu:[0-9]{1,3})$")] = "cpu"
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    max_batch_delay_ms: Annotated[int, Field(ge=0, le=10_000)] = 1
    response_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 30
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    topk: Annotated[int, Field(ge=1, le=1000)] | None = None
    allow_pickle: bool = False
    calibration: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    memory_limit_bytes: Annotated[_Bytes, Field(ge=1 << 20)] | None = None
    module: (
        Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")] | None
    ) = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if data.get("input") == "image" and data.get("image") is None:
            data["image"] = Image()
        if not data.get("handler_release"):
            handler = data.get("handler", "auto")
            if handler in (*handlers.NAMES, "auto"):
                data["handler_release"] = handlers.release(handler, data.get("engine", "eager"))
        return data

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.image is not None and self.input != "image":
            raise ValueError('image is for input = "image"')
        if self.calibration is not None and self.engine != "int8":
            raise ValueError('calibration is for engine = "int8"')
        if self.module is not None and self.handler not in ("auto", "torch"):
            raise ValueError("module is for a torch state dict")
        return self

    def resolved(self, handler: Handler) -> Recipe:
        """By that handler, in the release that is installed here."""
        data = self.model_dump() | {"handler": handler, "handler_release": ""}
        return Recipe.model_validate(data)


class About(_Strict):
    """What is said about a version and changes no byte of its archive."""

    task: str | None = None
    latency_sla_ms: _Positive | None = None
    memory_budget_bytes: Annotated[_Bytes, Field(gt=0)] | None = None
    card: str | None = None


def parse_recipe(text: str | bytes, *, source: str = "recipe") -> Recipe:
    """Read a recipe from JSON; raises UsageError naming the key that is wrong."""
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise UsageError(
            f"{source}: {where}: {first['msg']}",
            next="keys of a recipe: " + ", ".join(Recipe.model_fields),
        ) from error
