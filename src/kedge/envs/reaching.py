"""Where the arm's joints have to go for its fingertips to come to a place: damped least squares on a Jacobian."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from kedge.envs.chores import ROBOT
from kedge.envs.franka import STANDING, STEP, compiled, mj

JOINTS = 7
TIP = 0.04
"""From the hand's site to a point just inside the fingertips."""

DAMPING = 0.05
"""lambda of the damped least squares."""

TURN = 0.15
"""Metres that a radian counts: how much less turning matters than getting there."""

REST = 0.05
"""How strongly joints that are free to do so return to how they stood, per step."""

FASTEST = np.array([0.75, 0.7, 0.75, 0.7, 1.0, 1.0, 1.0])
"""Radians a second. A motor's greatest force over its joint's damping is 0.87, in the last three 1.2; some lifts."""


def facing(down: float = 0.0, left: float = 0.0) -> Float[np.ndarray, "3 3"]:
    """The hand's axes as columns: up, across its fingers, and where it points. Straight on is into the kitchen, the
    fingers side by side; angles in radians.
    """
    points = np.array([-np.sin(left) * np.cos(down), np.cos(left) * np.cos(down), -np.sin(down)])
    across = np.array([np.cos(left), np.sin(left), 0.0])
    return np.stack([np.cross(across, points), across, points], 1)


class Arm:
    """The arm in its kitchen, as one who acts in it imagines it."""

    def __init__(self) -> None:
        self._model = compiled()
        self._data = mj.MjData(self._model)
        self._site = self._model.site("end_effector").id
        self._hand = int(self._model.site_bodyid[self._site])
        self._jac, self._turn = np.zeros((3, self._model.nv)), np.zeros((3, self._model.nv))
        self._lag = self._model.dof_damping[:ROBOT] / self._model.actuator_gainprm[:ROBOT, 0]
        self._soft = 1 / self._model.actuator_gainprm[:ROBOT, 0]
        self._low, self._high = self._model.jnt_range[:JOINTS].T + np.array([[0.02], [-0.02]])

    def imagine(self, positions: Float[np.ndarray, " 30"]) -> None:
        """Puts everything where it is thought to be."""
        self._data.qpos[:] = positions
        mj.mj_kinematics(self._model, self._data)
        mj.mj_comPos(self._model, self._data)

    def position(self, joint: int) -> float:
        """A joint's position, by its place."""
        return float(self._data.qpos[joint])

    def site(self, name: str) -> Float[np.ndarray, " 3"]:
        """Where a marked point of the kitchen is, such as a handle."""
        return self._data.site(name).xpos.copy()

    @property
    def tip(self) -> Float[np.ndarray, " 3"]:
        """Where the fingertips are."""
        return self._data.site_xpos[self._site] + TIP * self.axes[:, 2]

    @property
    def axes(self) -> Float[np.ndarray, "3 3"]:
        """The hand's axes: up, across its fingers, and where it points."""
        return self._data.site_xmat[self._site].reshape(3, 3)

    def toward(
        self, there: Float[np.ndarray, " 3"], axes: Float[np.ndarray, "3 3"], speed: float, share: float
    ) -> Float[np.ndarray, " 7"]:
        """How far the joints move in a step, on a straight way of the fingertips.

        q' = J^T (J J^T + lambda^2 I)^-1 e, and in the null space of J back to how the arm stood. e is what is left of
        the way, at most what `speed` covers, and of the turn. All is slowed alike until no joint is too fast.
        """
        mj.mj_jac(self._model, self._data, self._jac, self._turn, self.tip, self._hand)
        J = np.concatenate([self._jac[:, :JOINTS], TURN * self._turn[:, :JOINTS]])
        left = there - self.tip
        way = left * min(1.0, speed * STEP / max(float(np.linalg.norm(left)), 1e-9))
        turn = 0.5 * sum(np.cross(self.axes[:, i], axes[:, i]) for i in range(3))
        e = np.concatenate([way, TURN * np.clip(turn, -0.15, 0.15)])
        q = self._data.qpos[:JOINTS]
        free = np.ones(JOINTS, bool)
        for _ in range(3):
            move = self._solved(J * free, e, q) * free
            stuck = free & ((q + move < self._low) | (q + move > self._high))
            if not stuck.any():
                break
            free &= ~stuck
        move = self._solved(J * free, e, q) * free
        move /= max(1.0, float((np.abs(move) / (FASTEST * STEP * share)).max()))
        return np.clip(q + move, self._low, self._high) - q

    def _solved(
        self, J: Float[np.ndarray, "6 7"], e: Float[np.ndarray, " 6"], q: Float[np.ndarray, " 7"]
    ) -> Float[np.ndarray, " 7"]:
        inverse = J.T @ np.linalg.inv(J @ J.T + DAMPING**2 * np.eye(6))
        rest = REST * (STANDING[:JOINTS] - q)
        return inverse @ e + rest - inverse @ (J @ rest)

    def drive(self, q: Float[np.ndarray, " 9"], move: Float[np.ndarray, " 9"]) -> Float[np.ndarray, " 9"]:
        """Where motors are sent for joints to come to q at that speed, against gravity and damping."""
        mj.mj_comVel(self._model, self._data)
        force = np.zeros(self._model.nv)
        mj.mj_rne(self._model, self._data, 0, force)
        return q + self._soft * force[:ROBOT] + self._lag * move / STEP
