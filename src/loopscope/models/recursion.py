"""One body for all models: a schedule of updates, folded over a latent.

A model is a few blocks and a `schedule`, a tuple of update names. One *segment* folds over it. The
first `len(schedule) - grad_tail` updates of a training segment run without gradient. Halting, slots
and detaching live in the training loop, never in the map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loopscope.config import ModelSettings
from loopscope.latent import leaves, tree_map
from loopscope.models.layers import (
    Block,
    Embedding,
    Linear,
    PuzzleEmbedding,
    ReasoningModule,
    rope_tables,
    swiglu_width,
    trunc_normal,
)
from loopscope.models.noise import UPDATE, normal
from loopscope.registry import Registry
from loopscope.tasks.base import Batch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Context(NamedTuple):
    """What stays constant along an orbit: the embedded input x, (B, M, D)."""

    x: Tensor


class HL(NamedTuple):
    """Latent of TRM and HRM, each part (B, M, D)."""

    z_H: Tensor
    z_L: Tensor


class Readout(NamedTuple):
    """What the heads say about a latent.

    Attributes:
        logits: (B, L, V), in the forward dtype.
        halt_logit: (B,) float32; above zero means *this answer is right*.
        continue_logit: (B,) float32.
    """

    logits: Float[Tensor, "B L V"]
    halt_logit: Float[Tensor, " B"]
    continue_logit: Float[Tensor, " B"]


class RecursiveModel(nn.Module):
    """Shared body. A subclass names its blocks, `schedule`, `grad_tail`, `update` and `read`.

    Public latents and contexts have the batch axis first, as every system has that the dynamics
    tools measure. In memory they are sequence first, so the transposes at the border are free views.
    """

    schedule: tuple[str, ...]
    grad_tail: int
    state_names: tuple[str, ...] = ("H", "L")
    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        s = self.settings = settings
        self.facts: dict[str, Any] = {}  # what the folder it came from tells: recipe, step, scores
        self.dtype = DTYPES[s.forward_dtype]
        self.embed_tokens = Embedding(s.vocab_size, s.hidden_size)
        self.lm_head = Linear(s.hidden_size, s.vocab_size)
        self.q_head = Linear(s.hidden_size, 2, bias=True)
        with torch.no_grad():  # almost never halt at the start of training
            self.q_head.weight.zero_()
            self.q_head.bias.fill_(-5)  # type: ignore[union-attr]
        if s.puzzle_emb_ndim:
            self.puzzle_emb = PuzzleEmbedding(s.num_puzzle_identifiers, s.puzzle_emb_ndim)
        if s.pos_encodings == "learned":
            self.embed_pos = Embedding(s.num_tokens, s.hidden_size)
        for name in self.state_names:
            start = trunc_normal((s.hidden_size,), 1.0).to(self.dtype).float()
            self.register_buffer(f"{name}_init", start)
        self._build_rope()
        self.build()

    # -- what a subclass gives

    def build(self) -> None:
        """Create the reasoning modules."""
        raise NotImplementedError

    def update(self, which: str, z: Any, x: Tensor) -> Any:
        """One block application: the named update of the sequence-first latent."""
        raise NotImplementedError

    def read(self, z: Any) -> Tensor:
        """The part of the latent that the heads read."""
        raise NotImplementedError

    # -- the interface of every measurement

    @property
    def applications_per_segment(self) -> int:
        """Block applications in one segment."""
        return len(self.schedule)

    def encode(self, batch: Batch, puzzle_rows: Float[Tensor, "B ndim"] | None = None) -> Context:
        """Embed the puzzles.

        Args:
            batch: puzzles; only `inputs` (B, L) and `puzzle_ids` (B,) are read.
            puzzle_rows: rows of the puzzle table to use instead of a look-up, so that training can
                take their gradient.
        Returns:
            Context with x (B, M, D), prefix first, scaled by sqrt(D).
        """
        s = self.settings
        x = self.embed_tokens(batch.inputs.t(), self.dtype)
        if s.puzzle_emb_ndim:
            rows = self.puzzle_emb(batch.puzzle_ids) if puzzle_rows is None else puzzle_rows
            padded = nn.functional.pad(rows, (0, s.prefix_len * s.hidden_size - s.puzzle_emb_ndim))
            prefix = padded.view(-1, s.prefix_len, s.hidden_size).transpose(0, 1)
            x = torch.cat((prefix.to(self.dtype), x))
        if s.pos_encodings == "learned":
            x = 0.707106781 * (x + self.embed_pos.embedding_weight.to(self.dtype)[:, None])
        return Context((x * s.hidden_size**0.5).transpose(0, 1))

    def initial_state(self, ctx: Context, generator: torch.Generator | None = None) -> Any:
        """The start z0 for every row of `ctx`.

        With `random_init` the start is drawn per token and dimension: from `generator`, or, when
        none is given, the same fixed draw for every puzzle.
        """
        batch, num_tokens, width = ctx.x.shape
        starts: list[Tensor] = []
        for name in self.state_names:
            if self.settings.random_init:
                start = self._random_start(batch, generator, stream=len(starts)).to(ctx.x.device)
            else:
                start = getattr(self, f"{name}_init").expand(num_tokens, batch, width)
            starts.append(start.to(self.dtype).transpose(0, 1))
        return self._latent(starts)

    def segment(self, z: Any, ctx: Context) -> Any:
        """The map: one segment, every update differentiable, nothing detached."""
        places = range(len(self.schedule))
        if torch.is_grad_enabled():
            return _swap(self._fold(places, _sequence_first(z), _sequence_first(ctx.x)))
        with self.casts_kept():
            return _swap(self._fold(places, _sequence_first(z), _sequence_first(ctx.x)))

    def check_task(self, task: object) -> None:
        """Refuse a task whose rules are not those that are built in; here none are."""

    def readout(self, z: Any, ctx: Context | None = None) -> Readout:
        """Decode a latent with the heads."""
        z_out = self.read(_swap(z))
        logits = self.lm_head(z_out[self.settings.prefix_len :]).transpose(0, 1)
        q = self.q_head(z_out[0]).float()
        return Readout(logits, q[:, 0], q[:, 1])

    def updates(self, ctx: Context) -> list[Callable[[Any], Any]]:
        """The segment as a list of single updates on public latents, in order."""
        x = _swap(ctx.x)
        places = range(len(self.schedule))
        return [lambda z, place=place: _swap(self._advance(place, _swap(z), x)) for place in places]  # type: ignore[misc]

    # -- training

    def training_segment(
        self, z: Any, ctx: Context, *, noise_keys: Int[Tensor, " B"] | None = None, recompute: bool = False
    ) -> Any:
        """The same map with a gradient only through the last `grad_tail` updates.

        Args:
            z: latent.
            ctx: the encoded puzzles.
            noise_keys: one per row: every update then adds the noise of `update_noise`. None adds none.
            recompute: keep only the states between the updates of the tail, and compute the rest again
                in the backward pass.
        """
        z, x = _sequence_first(z), _sequence_first(ctx.x)
        places = range(len(self.schedule))
        with torch.no_grad(), self.casts_kept():
            z = self._fold(places[: -self.grad_tail], z, x, noise_keys)
        return _swap(self._fold(places[-self.grad_tail :], z, x, noise_keys, recompute))

    @property
    def trains_continue(self) -> bool:
        """Whether training bootstraps a target for the continue head, at the cost of a second segment."""
        return not self.settings.no_ACT_continue and self.settings.halt_max_steps > 1

    # -- plumbing

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def num_parameters(self) -> int:
        """Trained numbers; the puzzle table and the start states are buffers and do not count."""
        return sum(p.numel() for p in self.parameters())

    @property
    def content_hash(self) -> str:
        """sha256 over names and values of all tensors and the settings: equal hashes, equal maps.

        `update_noise` is no part of the map, and undamped models hash as they did before there was damping.
        """
        off = {"update_noise"} | ({"damping"} if self.settings.damping == 1 else set())
        digest = hashlib.sha256(self.settings.model_dump_json(exclude=off).encode())
        for name, tensor in self.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().reshape(-1).numpy())  # no copy: tables may be large
        return digest.hexdigest()

    @property
    def mixer(self) -> str:
        """How tokens see one another, in words."""
        return "token mlp" if self.settings.mlp_t else f"attention, {self.settings.num_heads} heads"

    @property
    def application_flops(self) -> float:
        """Matrix-product FLOPs of one block application on one puzzle (2 per multiply-add), the mean."""
        s, m, d = self.settings, self.settings.num_tokens, self.settings.hidden_size
        heads, head_dim = self._heads()
        inner = heads * head_dim
        mix = 6 * d * m * swiglu_width(m, s.expansion) if s.mlp_t else 8 * m * d * inner + 4 * m**2 * inner
        depth = {n[0]: len(m.layers) for n, m in self.named_children() if isinstance(m, ReasoningModule)}
        layers = [depth.get(which, depth.get("L", 0)) for which in self.schedule]  # TRM: one block for both
        return sum(layers) / len(layers) * (6 * m * d * swiglu_width(d, s.expansion) + mix)

    def compute_in(self, dtype: str | torch.dtype) -> RecursiveModel:
        """Switch the dtype of states and products in place (weights stay as they are)."""
        self.dtype = DTYPES[dtype] if isinstance(dtype, str) else dtype
        self._build_rope()
        return self

    @contextmanager
    def casts_kept(self) -> Iterator[None]:
        """Cast the weights of the products once, for as long as the block lasts; same numbers out.

        `segment` does it by itself where no gradient is asked for. Around many segments it saves the
        casts between them. Changes of the weights inside the block are not seen.
        """
        cast = [
            m
            for m in self.modules()
            if isinstance(m, Linear) and m.kept is None and m.weight.dtype != self.dtype
        ]
        for linear in cast:
            linear.kept = linear.cast(self.dtype)
        try:
            yield
        finally:
            for linear in cast:
                linear.kept = None

    def compile_blocks(self, mode: str = "default", any_batch: bool = False) -> None:
        """Compile the recursive blocks in a mode of `torch.compile`.

        Each is compiled for the exact shapes it meets; with `any_batch` for the first one and then once for
        all batch sizes, as orbits that stop early leave batches of every size.

        CUDA graphs cannot be used: a state outlives the step whose buffers they would use again.
        """
        for module in self.modules():
            if isinstance(module, ReasoningModule):
                module.compile(dynamic=None if any_batch else False, mode=None if mode == "default" else mode)

    def _fold(
        self, places: Sequence[int], z: Any, x: Tensor, keys: Tensor | None = None, recompute: bool = False
    ) -> Any:
        for place in places:
            if recompute:
                z = checkpoint(
                    self._advance, place, z, x, keys, use_reentrant=False, preserve_rng_state=False
                )
            else:
                z = self._advance(place, z, x, keys)
        return z

    def _advance(self, place: int, z: Any, x: Tensor, keys: Tensor | None = None) -> Any:
        """The update at a place of the schedule: damped, and with noise where there are keys."""
        s, new = self.settings, self.update(self.schedule[place], z, x)
        keys = keys if s.update_noise else None
        if s.damping == 1 and keys is None:
            return new
        parts = []
        for i, (old, part) in enumerate(zip(leaves(z), leaves(new), strict=True)):
            if part is not old:  # what the update leaves alone gets neither
                part = part if s.damping == 1 else torch.lerp(old, part, s.damping)
                if keys is not None:
                    noise = normal(keys, (UPDATE, place, i), (part.shape[0], part.shape[2]))
                    part = part + (s.update_noise * noise).transpose(0, 1).to(part.dtype)
            parts.append(part)
        return self._latent(parts)

    def _latent(self, parts: list[Tensor]) -> Any:
        return HL(*parts) if len(parts) == 2 else parts[0]

    def _random_start(self, batch: int, generator: torch.Generator | None, stream: int) -> Tensor:
        shape = (self.settings.num_tokens, batch, self.settings.hidden_size)
        if generator is not None:
            return trunc_normal(shape, 1.0, generator)
        fixed = torch.Generator().manual_seed(stream)
        return trunc_normal((shape[0], 1, shape[2]), 1.0, fixed).expand(shape)

    def reasoning_module(self, num_layers: int) -> ReasoningModule:
        s = self.settings
        heads, head_dim = self._heads()
        blocks = [
            Block(
                s.hidden_size,
                s.expansion,
                s.rms_norm_eps,
                mix_tokens=s.num_tokens if s.mlp_t else 0,
                num_heads=heads,
                head_dim=head_dim,
            )
            for _ in range(num_layers)
        ]
        return ReasoningModule(blocks)

    def _heads(self) -> tuple[int, int]:
        return self.settings.num_heads, self.settings.hidden_size // self.settings.num_heads

    def _build_rope(self) -> None:
        """Rotation tables: float32 as officially, float64 when the model computes in float64."""
        s = self.settings
        if s.pos_encodings == "rope" and not s.mlp_t:
            cos, sin = rope_tables(s.num_tokens, self._heads()[1], s.rope_theta)
            wide = torch.promote_types(self.dtype, torch.float32)
            self.register_buffer("rope_cos", cos.to(self.device, wide), persistent=False)
            self.register_buffer("rope_sin", sin.to(self.device, wide), persistent=False)

    @property
    def rope(self) -> tuple[Tensor, Tensor] | None:
        """Rotation tables (M, head_dim), None for other position encodings."""
        return (self.rope_cos, self.rope_sin) if "rope_cos" in self._buffers else None


def _swap(z: Any) -> Any:
    """Batch first <-> sequence first, a view."""
    return tree_map(lambda t: t.transpose(0, 1), z)


def _sequence_first(z: Any) -> Any:
    """Batch first to sequence first; a copy only for a latent that was made elsewhere."""
    return tree_map(lambda t: t.transpose(0, 1).contiguous(), z)


ARCHITECTURES: Registry[type[RecursiveModel]] = Registry("architecture")


def build_model(settings: ModelSettings, seed: int | None = None) -> RecursiveModel:
    """A model with fresh weights; with `seed` the same weights every time."""
    assert settings.seq_len > 0, "seq_len must be set, from the data or the checkpoint"
    assert settings.vocab_size > 0, "vocab_size must be set, from the data or the checkpoint"
    architecture = ARCHITECTURES[settings.arch]
    if seed is None:
        return architecture(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture(settings)
