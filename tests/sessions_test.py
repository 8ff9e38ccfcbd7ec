import threading

import pytest
import tensorflow as tf

from impala import sessions
from impala.environments import process, protocol, step_op

_SPEC = protocol.Spec((2,), 3, 'float32')
_STEADY = 'gym:broken_environments:Steady-v0'

pytestmark = pytest.mark.usefixtures('time_limit')


@pytest.fixture
def started():
  return []


@pytest.fixture
def made(launcher, started):
  def start(level, seeds):
    options = protocol.Options(
      seed=seeds[0], episode_seeds=seeds, num_action_repeats=1
    )
    started.append(launcher.start(level, options))
    return started[-1]

  made = sessions.Sessions(_SPEC, start, timeout=30.0)
  yield made
  made.close()


def test_a_process_for_a_while(made, started):
  with made.open(_STEADY, [1]) as handle:
    step_op.first(handle, _SPEC)
    step, _ = step_op.step(handle, tf.constant([1]), _SPEC)
    assert int(step.info.episode_step[0]) == 1
    assert started[0].files
  assert not started[0].files and not made.closed


def test_a_failure_is_told_as_one_of_the_environment(made):
  with (
    pytest.raises(process.EnvironmentFailure, match='on purpose'),
    made.open('gym:broken_environments:RaisesAtStep5-v0', [1]) as handle,
  ):
    step_op.first(handle, _SPEC)
    for _ in range(9):
      step_op.step(handle, tf.constant([1]), _SPEC)


def test_another_spec(made):
  with (
    pytest.raises(protocol.UserError, match='the same frames and actions'),
    made.open('gym:CartPole-v1', [1]),
  ):
    pass


def test_the_end_of_all(made, started):
  """`close` ends what another thread waits for."""
  is_open, errors = threading.Event(), []

  def play():
    try:
      with made.open('gym:broken_environments:SleepsAtStep5-v0', [1]) as handle:
        step_op.first(handle, _SPEC)
        is_open.set()
        for _ in range(9):
          step_op.step(handle, tf.constant([1]), _SPEC)
    except tf.errors.CancelledError as error:
      errors.append(error)

  thread = threading.Thread(target=play)
  thread.start()
  assert is_open.wait(30)
  made.close()
  thread.join(30)
  assert errors and made.closed and not started[0].files
  with (
    pytest.raises(process.EnvironmentFailure, match='is over'),
    made.open(_STEADY, [1]),
  ):
    pass
  assert len(started) == 1
