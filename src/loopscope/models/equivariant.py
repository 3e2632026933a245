"""TRM on the symmetries of Sudoku: one rule for every cell and every digit.

A token is not a vector of its own but n nodes, one per digit, each of width C = hidden_size / n. All nodes
share all weights and see one another only through sums over the groups that the rules of Sudoku name: the
digits of a cell, and a digit in a row, a column, a box, and the parts of rows and columns inside a box. So
the map commutes with every relabelling of digits and every permitted exchange of rows, columns and bands;
it need not learn them from augmented boards. Recursion, training and halting are those of TRM.

A published neighbour with symbols as an axis of their own is SE-RRM (attention over cells and over digits).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from loopscope.config import ModelSettings
from loopscope.errors import UserError
from loopscope.models.layers import Linear, ReasoningModule, rms_norm, trunc_normal
from loopscope.models.recursion import ARCHITECTURES, HL, Readout
from loopscope.models.trm import TRM
from loopscope.tasks.sudoku import Sudoku, sudoku_for
from loopscope.tasks.sudoku.board import FIRST_DIGIT

KINDS = 3  # what a given says to a node: nothing, not this digit, this digit
GROUPS = ("cell", "line", "box", "segment")  # a segment is what a line and a box share
START = 0.5  # of the usual size: sums over groups would otherwise drown a node's own state


class EquivariantBlock(nn.Module):
    """One post-norm layer: add the sums over the groups of a node, then a SwiGLU on every node."""

    def __init__(self, task: Sudoku, width: int, inner: int, eps: float) -> None:
        super().__init__()
        self.eps, self.width, self.side = eps, width, task.side
        rows, cols = task.box_rows, task.box_cols
        self.board: tuple[int, int, int, int] = (task.side // rows, rows, task.side // cols, cols)
        groups = {name: Linear(width, width) for name in GROUPS}
        with torch.no_grad():
            for linear in groups.values():
                linear.weight.mul_(START)
        self.groups = nn.ModuleDict(groups)
        self.gate_up_proj = Linear(width, 2 * inner)
        self.down_proj = Linear(inner, width)

    def forward(self, h: Float[Tensor, "M B D"], rope: None) -> Float[Tensor, "M B D"]:
        nodes = rms_norm(self.mix(h), self.eps)
        gate, up = self.gate_up_proj(nodes).chunk(2, dim=-1)
        return rms_norm(nodes + self.down_proj(F.silu(gate) * up), self.eps).view(h.shape)

    def mix(self, h: Float[Tensor, "M B D"]) -> Float[Tensor, "M B n C"]:
        """The nodes plus a map of each of their groups; linear in h, and blind to other columns B.

        Only the sums over segments and cells run over all nodes. Lines and boxes are sums of segments.
        """
        nodes = h.view(*self.board, h.shape[1], self.side, self.width)  # bands, rows, stacks, columns, ...
        wide = torch.promote_types(h.dtype, torch.float32)
        across, down, cell = (nodes.sum(axis, keepdim=True, dtype=wide) for axis in (3, 1, 5))
        box = across.sum(1, keepdim=True)
        mean = box.sum((0, 2, 5), keepdim=True) / (h.shape[0] * self.side)  # would grow from update to update

        def added(name: str, total: Tensor, size: int) -> Tensor:
            return self.groups[name](((total - size * mean) * size**-0.5).to(h.dtype))

        n, (_, rows, _, cols) = self.side, self.board
        by_row = added("segment", across, cols) + added("line", across.sum(2, keepdim=True), n)
        by_column = added("segment", down, rows) + added("line", down.sum(0, keepdim=True), n)
        nodes = nodes + added("cell", cell, n) + (by_row + added("box", box, n)) + by_column
        return nodes.view(*h.shape[:2], n, self.width)


class GivenEmbedding(nn.Module):
    """Tokens to nodes with one vector for each of `KINDS`, (3, C)."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.embedding_weight = nn.Parameter(trunc_normal((KINDS, width), (side * width) ** -0.5))

    def forward(self, index: Int[Tensor, "*M"], dtype: torch.dtype) -> Float[Tensor, "*M D"]:
        digit = index[..., None] - FIRST_DIGIT
        kind = (digit >= 0).int() + (digit == torch.arange(self.side, device=index.device))
        return F.embedding(kind, self.embedding_weight.to(dtype)).flatten(-2)


@ARCHITECTURES.register("trm-equivariant")
class EquivariantTRM(TRM):
    """TRM whose latent is a state per cell and digit, (B, L, n C), updated alike for all of them."""

    def __init__(self, settings: ModelSettings) -> None:
        task = sudoku_for(settings.seq_len)
        assert isinstance(task, Sudoku)
        _check(settings, task)
        self.board = task
        super().__init__(settings)

    def build(self) -> None:
        super().build()
        s, n, width = self.settings, self.board.side, self.node_width
        inner = round(s.expansion * width)
        layers = [EquivariantBlock(self.board, width, inner, s.rms_norm_eps) for _ in range(s.L_layers)]
        self.L_level = ReasoningModule(layers)
        self.embed_tokens = GivenEmbedding(n, width)  # type: ignore[assignment]
        self.lm_head = Linear(width, 1)
        self.no_digit = nn.Parameter(torch.tensor([-4.0]))
        self.q_head = Linear(2 * width, 2, bias=True)
        with torch.no_grad():
            self.q_head.weight.zero_()
            self.q_head.bias.fill_(-5)  # type: ignore[union-attr]
        for name in self.state_names:
            start = trunc_normal((width,), 1.0).to(self.dtype).float()
            self.register_buffer(f"{name}_init", start.repeat(n))

    def check_task(self, task: object) -> None:
        """Refuse boards with other boxes than those that are built in.

        Raises:
            UserError: another task.
        """
        if task != self.board:
            raise UserError(
                f"trm-equivariant is built for {self.board.name}, not {getattr(task, 'name', task)}: "
                "other boxes are other rules. Use puzzles of that kind."
            )

    @property
    def node_width(self) -> int:
        """C, numbers per cell and digit."""
        return self.settings.hidden_size // self.board.side

    def readout(self, z: HL, ctx: object = None) -> Readout:
        """Logits: one per node; the tokens that are no digit share a learned one. Halting: from the nodes of
        the digits chosen, their mean and their least over the cells."""
        nodes = z.z_H.unflatten(-1, (self.board.side, self.node_width))  # (B, L, n, C)
        digits = self.lm_head(nodes).squeeze(-1)
        other = self.no_digit.to(digits.dtype).expand(*digits.shape[:2], FIRST_DIGIT)
        best = digits.argmax(-1)[..., None, None].expand(*digits.shape[:2], 1, self.node_width)
        chosen = nodes.gather(2, best).squeeze(2).float()
        q = self.q_head(torch.cat((chosen.mean(1), chosen.amin(1)), dim=-1))
        return Readout(torch.cat((other, digits), dim=-1), q[:, 0], q[:, 1])

    @property
    def mixer(self) -> str:
        return "sums over cells, rows, columns, boxes"

    @property
    def application_flops(self) -> float:
        """Matrix-product FLOPs of one block application on one puzzle (2 per multiply-add)."""
        s, n, width = self.settings, self.board.side, self.node_width
        sums = n * (n + 3 * n) + n * n * (self.board.box_rows + self.board.box_cols)
        return float(s.L_layers) * (6 * n**3 * width * round(s.expansion * width) + 2 * width**2 * sums)


def _check(settings: ModelSettings, task: Sudoku) -> None:
    s = settings
    if s.hidden_size % task.side or s.puzzle_emb_ndim or s.vocab_size != task.vocab_size:
        raise UserError(
            f"arch=trm-equivariant: hidden_size={s.hidden_size}, puzzle_emb_ndim={s.puzzle_emb_ndim}, "
            f"vocab_size={s.vocab_size}; expected a multiple of {task.side} digits, no puzzle embedding and "
            f"{task.vocab_size} tokens. Set model.hidden_size={32 * task.side} and model.puzzle_emb_ndim=0."
        )
