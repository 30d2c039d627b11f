"""Where logged behaviour has been: a map that is drawn from data alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kedge.data import Trajectories


class Support(nn.Module):
    """A grid over some dimensions of a state whose cells know whether the logs ever came there, or next to it.

    It knows nothing of walls: a cell that nobody entered is merely a place of which nothing is known. A candidate that
    passes through such cells is likelier to be a slip of the model than a discovery.
    """

    visited: Bool[Tensor, "x y"]
    low: Tensor
    size: Tensor

    def __init__(
        self, visited: Bool[Tensor, "x y"], low: Float[Tensor, " 2"], size: float, dims: Sequence[int] = (0, 1)
    ) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.register_buffer("visited", visited)
        self.register_buffer("low", low)
        self.register_buffer("size", torch.tensor(size))

    @classmethod
    def fit(cls, logs: Trajectories, size: float = 0.1, dims: Sequence[int] = (0, 1)) -> Support:
        """From all that was logged, in chunks; cells of `size`, each visit also counting for the eight neighbours."""
        lows, highs = [], []
        for chunk in logs.chunks():
            points = chunk["observations"][:, list(dims)]
            lows.append(points.min(0))
            highs.append(points.max(0))
        low = np.min(lows, 0) - 2 * size
        shape = np.ceil((np.max(highs, 0) - low) / size).astype(int) + 3
        visited = np.zeros(shape, bool)
        for chunk in logs.chunks():
            i, j = ((chunk["observations"][:, list(dims)] - low) / size).astype(int).T
            visited[i, j] = True
        return cls(torch.from_numpy(_spread(visited)), torch.from_numpy(low).float(), size, dims)

    def opened(self, boxes: Sequence[tuple[float, float, float, float]]) -> Support:
        """The same, as if the logs had been in these boxes too (x from, y from, x to, y to), as far as the grid goes:
        for places of which somebody else knows that one can be there.
        """
        visited, low, size = self.visited.clone(), self.low.cpu(), self.size.cpu()
        for box in boxes:
            cells = ((torch.tensor(box).reshape(2, 2) - low) / size).floor().long()
            (i, j), (k, m) = cells[0].clamp(min=0).tolist(), (cells[1] + 1).clamp(min=0).tolist()
            visited[i:k, j:m] = True
        return Support(visited, self.low, float(self.size), self.dims)

    def covers(self, points: Float[Tensor, "*b s"]) -> Bool[Tensor, "*b"]:
        """Whether the logs have been there."""
        cell = ((points[..., list(self.dims)] - self.low) / self.size).floor().long()
        limits = torch.tensor(self.visited.shape, device=cell.device)
        within = ((cell >= 0) & (cell < limits)).all(-1)
        cell = cell.clamp(min=0).minimum(limits - 1)
        return within & self.visited[cell[..., 0], cell[..., 1]]

    def share(self, trajectories: Float[Tensor, "*b h s"], between: int = 6) -> Float[Tensor, "*b segments"]:
        """Of each segment between neighbouring points, the share that is covered."""
        return self.covers(along(trajectories, between)).float().mean(-1)


def along(trajectories: Float[Tensor, "*b h s"], between: int) -> Float[Tensor, "*b segments between s"]:
    """So many points of each straight segment between neighbouring points, from its first one on, evenly in time."""
    w = torch.arange(between, device=trajectories.device) / between
    a, b = trajectories[..., :-1, None, :], trajectories[..., 1:, None, :]
    return a + w[:, None] * (b - a)


def _spread(visited: np.ndarray) -> np.ndarray:
    """Each visited cell and its eight neighbours."""
    padded = np.pad(visited, 1)
    n, m = visited.shape
    return np.logical_or.reduce([padded[i : i + n, j : j + m] for i in range(3) for j in range(3)])
