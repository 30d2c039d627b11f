"""The kitchen's physics: the arm, the kitchen around it, and D4RL's numbers, on gymnasium-robotics' model."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

from kedge.envs.chores import OBJECTS, ROBOT
from kedge.errors import InputError
from kedge.extras import absent, command

mj: Any = mujoco
"""MuJoCo's names come from a compiled module that says nothing of types."""

FRAMES = 40
"""Steps of the physics in a step of the environment."""

TIMESTEP = 0.002
STEP = FRAMES * TIMESTEP
"""Seconds of a step of the environment."""

GAIN = 2.0
"""An action of 1 is this velocity, in radians a second; for the fingers metres a second."""

FASTEST = 10.0
"""Velocities are cut to this, which an action in [-1, 1] does not reach."""

LOW = np.array([-2.9, -1.8, -2.9, -3.1, -2.9, 0.0, -2.9, 0.0, 0.0])
HIGH = np.array([2.9, 1.8, 2.9, 0.0, 2.9, 3.8, 2.9, 0.04, 0.04])
"""Where the arm may be sent."""

NOISE = 0.1
"""D4RL's share of the amplitudes below, for the arm and for everything else. gymnasium-robotics has 0.01 and 0.0005."""

AMPLITUDES = np.array(
    [0.1] * 9 + [0.005] * 2 + [0.0005] * 6 + [0.005] * 3 + [0.1] * 3 + [0.005] * 3 + [0.1] * 3 + [0.005]
)
"""Of the noise on each of the thirty positions: D4RL's file has one for every joint, in its order."""

STANDING = np.array([
    1.48388023e-01, -1.76848573e00, 1.84390296e00, -2.47685760e00, 2.60252026e-01, 7.12533105e-01, 1.59515394e00,
    4.79267505e-02, 3.71350919e-02, -2.66279850e-04, -5.18043486e-05, 3.12877220e-05, -4.51199853e-05, -3.90842156e-06,
    -4.22629655e-05, 6.28065475e-05, 4.04984708e-05, 4.62730939e-04, -2.26906415e-04, -4.65501369e-04, -6.44129196e-03,
    -1.77048263e-03, 1.08009684e-03, -2.69397440e-01, 3.50383255e-01, 1.61944683e00, 1.00618764e00, 4.06395120e-03,
    -6.62095997e-03, -2.68278933e-04,
])  # fmt: skip
"""Where every episode begins, at rest; the noise on what is seen is all that differs."""

_MODEL = "envs/assets/kitchen_franka/kitchen_assets/kitchen_env_model.xml"


@lru_cache(maxsize=1)
def compiled() -> Any:
    """MuJoCo's model of arm and kitchen: a second's work, done once. Nobody changes it.

    The package that holds the files is found, not imported: its own environment needs MuJoCo below 3.12, the model does
    not.
    """
    found = importlib.util.find_spec("gymnasium_robotics")
    if found is None or found.origin is None:
        raise absent("gymnasium-robotics", "kitchen", "which has the kitchen's model")
    model = mj.MjModel.from_xml_path(str(Path(found.origin).parent / _MODEL))
    if (model.nq, model.nu, model.opt.timestep) != (ROBOT + OBJECTS, ROBOT, TIMESTEP):
        raise InputError(
            f"the installed gymnasium-robotics has another kitchen ({model.nq} positions, {model.nu} motors): "
            f"{command(['kitchen'])}"
        )
    return model


@lru_cache(maxsize=1)
def begun() -> Float[np.ndarray, " state"]:
    """The physics' whole state where an episode begins. What the solver starts from is part of it."""
    model = compiled()
    data = mj.MjData(model)
    data.qpos[:] = STANDING
    mj.mj_forward(model, data)
    state = np.empty(size())
    mj.mj_getState(model, data, state, mj.mjtState.mjSTATE_INTEGRATION)
    state.flags.writeable = False
    return state


def size() -> int:
    """How many numbers a step of the physics depends on."""
    return int(mj.mj_stateSize(compiled(), mj.mjtState.mjSTATE_INTEGRATION))


def targets(seen: Float[np.ndarray, "n 9"], actions: Float[np.ndarray, "n 9"]) -> Float[np.ndarray, "n 9"]:
    """Where the motors are sent: what was last seen of the arm, noise included, moved on by a step at the velocity that
    is asked for, and cut to where the arm may be.
    """
    velocities = np.clip(GAIN * np.clip(actions, -1.0, 1.0, dtype=float), -FASTEST, FASTEST)
    return np.clip(seen + velocities * STEP, LOW, HIGH)
