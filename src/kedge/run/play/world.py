"""One browser tab's world: the maze with what was drawn, the ball in it, the plan that it follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from kedge.envs.layout import BALL, Box, Cell, Layout
from kedge.envs.mazes import Mazes
from kedge.envs.model import reached, start
from kedge.errors import InputError
from kedge.plan import Agent, Paths, Plan
from kedge.plan.proposer import candidate_seeds
from kedge.plan.receding import FOLLOWING
from kedge.run.play.scene import Mark, Point, Scene, Settings, Stepping

VISIT = 0.35
"""A point to come to has been come to within this distance, in metres."""


class World:
    """Stepped by hand: whoever owns it calls `advance`, from one thread at a time.

    Args:
        layout: the maze, as it was before anyone drew in it.
        agent: of a run.
        seed: of where the ball begins.
    """

    def __init__(self, layout: Layout, agent: Agent, seed: int = 0) -> None:
        self.layout, self.agent, self.seed = layout, agent, seed
        goal = (float(layout.goal[0]), float(layout.goal[1]))
        self.scene = Scene(goal)
        self.visited: set[str] = set()
        self.settings = settings_of(agent)
        self.steps, self.since, self.follows, self.held = 0, 0, False, False
        self._random = np.random.default_rng(seed)
        self._mazes = Mazes(layout, 1)
        self._mazes.reset([seed])
        self._paths = self._no_paths()

    @property
    def ball(self) -> Float[np.ndarray, " 4"]:
        """Position and velocity."""
        return self._mazes.states[0]

    @property
    def arrived(self) -> bool:
        """Whether the ball is at the goal."""
        return bool(reached(self.ball[:2], np.array(self.scene.goal)))

    @property
    def ahead(self) -> Scene:
        """The scene that is planned for: without points to come to that the ball has come to."""
        left = {name: mark for name, mark in self.scene.marks.items() if name not in self.visited}
        return replace(self.scene, marks=left)

    def again(self) -> None:
        """The ball at another start."""
        self.put(start(self._mazes.layout, self._random)[:2])

    def put(self, at: Point | Float[np.ndarray, " 2"]) -> None:
        """The ball at rest at a place; one line where it does not fit."""
        where = np.array([float(at[0]), float(at[1])])
        if self._outside(where) or self._mazes.layout.blocked(where, BALL):
            raise InputError("the ball does not fit there: it would be in a wall")
        self._mazes.place(np.array([[*where, 0.0, 0.0]]))
        self.follows, self.steps = False, 0
        self.visited.clear()

    def aim(self, at: Point) -> None:
        """The goal at a place; one line where it cannot be."""
        if not getattr(self.agent.proposer, "heeds", False):
            raise InputError("this run was never shown goals (goals=0): its goal stays where it is")
        self._check_goal(at, self._mazes.layout, self.scene)
        self.scene = replace(self.scene, goal=at)

    def draw(self, mark: Mark) -> None:
        """One more mark, or one changed; one line where it cannot be."""
        if mark.kind == "gap" and mark.box is not None:
            mark = replace(mark, box=self.layout.around(self._cell(mark.box)))
        scene = self.scene.drawn(mark)
        if mark.kind == "wall" and mark.box is not None and self._touched(mark.box):
            raise InputError("a wall cannot be drawn onto the ball")
        self._become(scene)
        self.visited.discard(mark.id)

    def erase(self, name: Any) -> None:
        """Without a mark."""
        self._become(self.scene.erased(name))

    def clear(self) -> None:
        """Without any."""
        self._become(replace(self.scene, marks={}))

    def follow(self, plan: Plan) -> None:
        """The chosen candidate of a plan is what the ball follows from now on."""
        self._paths.put(np.zeros(1, int), plan.trajectory.astype(float))
        self._paths.advance(self._mazes.states)
        self.follows, self.since = True, 0

    def rest(self) -> Float[np.ndarray, "1 h s"] | None:
        """What is left of the plan that is followed, from where the ball is."""
        if not self.follows:
            return None
        rest = self._paths.rest(np.zeros(1, int), self.agent.proposer.horizon)
        rest[:, 0] = self._mazes.states
        return rest

    def advance(self, steps: int) -> None:
        """So many steps of the simulator, a hundredth of a second each."""
        if not self.follows or self.held:
            return
        for _ in range(steps):
            states = self._mazes.states
            self._paths.advance(states)
            seeds = candidate_seeds(np.array([self.seed + FOLLOWING]), self.steps, 1)[:, 0]
            self._mazes.step(self.agent.follower.act(states, self._paths, seeds))
            self.steps, self.since = self.steps + 1, self.since + 1
            self._visit()

    def _visit(self) -> None:
        """Notes which points to come to have been come to."""
        for mark in self.scene.marks.values():
            if mark.kind == "come" and np.hypot(*(self.ball[:2] - mark.points[0])) < VISIT:
                self.visited.add(mark.id)

    def _become(self, scene: Scene) -> None:
        """The scene as it is to be; the physics anew where walls have changed; one line where goal or ball could not
        be where they are.
        """
        mazes, before = self._mazes, self.scene
        closed = [box for box in before.boxes("gap") if box not in scene.boxes("gap")]
        if any(map(self._touched, closed)):
            raise InputError("the wall cannot come back onto the ball")
        if scene.boxes("wall") != before.boxes("wall") or scene.boxes("gap") != before.boxes("gap"):
            mazes = Mazes(self._laid(scene), 1)
            mazes.place(self._mazes.states)
        if closed or any(mark not in before.marks.values() for mark in scene.marks.values()):
            self._check_goal(scene.goal, mazes.layout, scene)
        self.scene, self._mazes = scene, mazes

    def _laid(self, scene: Scene) -> Layout:
        """The maze with what was drawn, and without the walls that were erased."""
        gaps = dict.fromkeys(self._cell(box) for box in scene.boxes("gap"))
        return self.layout.opened(tuple(gaps)).with_walls(scene.boxes("wall"))

    def _cell(self, box: Box) -> Cell:
        """In which the middle of a box lies."""
        x0, y0, x1, y1 = box
        return self.layout.cell_of(((x0 + x1) / 2, (y0 + y1) / 2))

    def _touched(self, box: Box) -> bool:
        """Whether the ball is in a box, or touches it."""
        (x, y), (x0, y0, x1, y1) = self.ball[:2], box
        return bool(np.hypot(max(x0 - x, x - x1, 0.0), max(y0 - y, y - y1, 0.0)) <= BALL)

    def _check_goal(self, at: Point, layout: Layout, scene: Scene) -> None:
        where = np.array(at)
        if self._outside(where):
            raise InputError("the goal cannot lie outside the maze")
        if layout.blocked(where, BALL):
            raise InputError("the goal cannot lie in a wall: the ball would not fit there")
        if any(x0 < at[0] < x1 and y0 < at[1] < y1 for x0, y0, x1, y1 in scene.boxes("zone")):
            raise InputError("the goal cannot lie in a keep-out zone")

    def _outside(self, at: Float[np.ndarray, " 2"]) -> bool:
        r, c = self.layout.cell_of(at)
        return not (0 <= r < self.layout.walls.shape[0] and 0 <= c < self.layout.walls.shape[1])

    def _no_paths(self) -> Paths:
        proposer = self.agent.proposer
        return Paths(1, proposer.horizon, proposer.stride, 4)


def settings_of(agent: Agent) -> Settings:
    """What the run itself chose, as far as the page has a slider for it."""
    from kedge.run.play.planning import SOLVERS

    proposer: Any = agent.proposer
    own = getattr(proposer, "solver", None)
    steps = int(getattr(getattr(proposer, "grid", None), "n", Settings.steps))
    same: list[Stepping] = [name for name, solver in SOLVERS.items() if solver == own]
    solver = same[0] if same else Settings.solver
    return Settings(candidates=min(agent.candidates, Settings.candidates), steps=min(steps, 30), solver=solver)
