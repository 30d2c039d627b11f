"""Which number each stream of keyed noise has: all of them, in one list.

A draw follows from (key of the sample, step, slot): see `kedge.noise`. Two draws of one sample at one step are apart by
their slots alone, so whoever needs a stream of its own takes it from here, and a new one is put here with a number that
nobody has. A number never changes: what was drawn once is to be drawn again.

Slots below 64 are those of a tensor, or of the first field of a state; the i-th field has the same ones 64 i further.
"""

from __future__ import annotations

PIN_SLOT = 1
"""Known entries, noised to a step's level. (0 is the noise of the step itself.)"""
COMPONENT_SLOT, SAMPLE_SLOT = 2, 5
"""A mixture's samples: which component, and where in it. So a sample is independent of what noises it by its seed."""
LEVEL_SLOT, Z_SLOT = 3, 4
"""Levels and noise at which a denoising error is taken."""
START_SLOT, CONDITION_SLOT, SHARED_SLOT, KEPT_SLOT = 7, 8, 9, 10
"""Recorded walks: where they begin, for what conditions, the steps that a group shares, which batch is heard again."""
END_LEVEL_SLOT, END_Z_SLOT = 11, 12
"""Levels and noise at which a walk's end is denoised, on that walk's noise."""
BEGIN_SLOT, WALK_SLOT = 13, 14
"""A learned start: what is drawn from it, and the seeds of the walks from there."""
ACTION_SLOT, ACTION_START_SLOT = 18, 19
"""An action's noise, and the start of a walk to one."""
ALIAS_SLOT, OPEN_SLOT = 20, 21
"""A steered policy: the noise at which one critic is told what the other one says, and that which nobody picks."""
RESAMPLE_SLOT = 40
"""Resampling of particles."""
MOMENTUM_SLOT, ACCEPT_SLOT = 41, 45
"""Moves of Markov chains: momenta, and what is accepted; those of a chain's next turn lie 64 further."""
WHICH_SLOT, NORMAL_SLOT, TAIL_SLOT = 46, 47, 48
"""Draws of a proposal: which component, where in it, how far out."""
CHOOSE_SLOT = 49
"""The particles that a step hears."""
AROUND_SLOT, PICK_SLOT = 50, 51
"""Draws around x_t, and what is taken from a buffer of samples."""
FLOW_SLOT = 52
"""The normals that a flow turns into samples."""
LATENT_SLOT = 53
"""Those of an amortised posterior."""
ASKED_SLOT = 54
"""At which steps of a walk it is noted what a network is asked."""
SHOWN_SLOT = 57
"""Which anchors a sample is shown."""
WIDTH_SLOT = 58
"""Which width between the least and the whole an update trains."""
IMAGINED_SLOT, REGENERATED_SLOT = 60, 61
"""The walks of models that critics learn by: what comes of an action, and whole trajectories."""
BOUND_SLOT = 62
"""Noise at the levels of a variational bound."""
PROBE_SLOT = 63
"""Signs by which the diagonal of a denoiser's slope is told."""

RECALL_SLOT = CHOICE_SLOT = EPISODE_SLOT = 15
"""The walks of a reference, by a loss; choices of settings, on a walk's noise; what acts in an episode, by a source."""
DATA_SLOT = PART_SLOT = EPISODE_BEGIN_SLOT = 16
"""Which data a critic sees, by a loss; the order in which a batch of walks is gone through, and where an episode
begins, by two kinds of source."""
BETWEEN_SLOT = CHUNK_SLOT = MEMORY_SLOT = 17
"""Where between data and ends a critic's slope is taken, by a loss; the walks of one collection, and what is taken from
a memory, by two kinds of source."""
TWICE = (15, 16, 17)
"""Numbers that were given more than once before there was this list. Their streams draw from different keys all the
same: a loss and a source by `Tick.part`, and of two kinds of source a training has one. No other number is given twice.
"""

DROP_SLOT = 1 << 32
"""Condition dropout. A field's own slot is this plus a 32-bit checksum of its name, so that whether a field is dropped
does not depend on which other fields there are; everything else keeps to slots below 2^32."""
