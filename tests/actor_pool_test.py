import gc
import itertools
import logging
import os
import signal
import threading
import time

import psutil
import pytest
import sonnet as snt
import tensorflow as tf

from impala import actor_pool, structures
from impala.environments import process, protocol

pytestmark = pytest.mark.usefixtures('time_limit')

_SPEC = protocol.Spec((2,), 3, 'float32')
_T = 4


def _slow(value):
  return pytest.param(value, marks=pytest.mark.slow)


class _Agent(snt.Module):
  """Does anything; its steps last `seconds`."""

  def __init__(self, seconds=0.0):
    super().__init__(name='agent')
    self._seconds = seconds

  def initial_state(self, batch_size):
    return ()

  def __call__(self, last_actions, env_outputs, core_state, noise):
    if self._seconds:
      (noise,) = tf.numpy_function(self._sleep, [noise], [tf.float32])
      noise.set_shape(last_actions.shape)
    action = tf.cast(noise * 3, tf.int32)
    logits = tf.zeros([tf.shape(noise)[0], 3])
    return structures.AgentOutput(action, logits, noise), core_state

  def _sleep(self, noise):
    time.sleep(self._seconds)
    return noise


def _wait_for(condition, seconds=60.0):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.fixture
def make(launcher):
  """Makes and starts pools of environments named for each actor in turn.

  An actor's n-th process is of the n-th name, of the last one from then on.
  """
  pools = []

  def make(*names, timeout=60.0, seconds=0.0, lockstep=False, unroll_length=_T):
    def start_process(index, attempt=0):
      of_actor = names[index].split()
      name = of_actor[min(attempt, len(of_actor) - 1)]
      return launcher.start(
        f'gym:broken_environments:{name}-v0',
        protocol.Options(num_action_repeats=1, seed=index),
      )

    pools.append(
      actor_pool.ActorPool(
        _Agent(seconds),
        _SPEC,
        tf.Variable(0, dtype=tf.int64),
        start_process,
        unroll_length=unroll_length,
        batching={
          'minimum_batch_size': 1,
          'maximum_batch_size': len(names),
          'timeout_ms': 10,
        },
        timeout=timeout,
        lockstep=lockstep,
      )
    )
    pools[-1].start([start_process(index) for index in range(len(names))])
    return pools[-1]

  yield make
  for pool in pools:
    pool.close()


@pytest.fixture
def warnings(caplog):
  caplog.set_level(logging.WARNING, logger='impala')
  return lambda: [
    record.getMessage() for record in caplog.records if record.name == 'impala'
  ]


def _take(pool):
  # Not to block in TensorFlow, which nothing would interrupt.
  _wait_for(lambda: pool.error or int(pool.queue.size()))
  if pool.error:
    raise pool.error
  return tf.nest.pack_sequence_as(pool.specs, pool.queue.dequeue())


def _actors(pool, count):
  return {int(_take(pool).actor) for _ in range(count)}


def test_all_actors_act(make):
  pool = make('Steady', 'Steady', 'Steady')
  seen = set()
  _wait_for(lambda: seen.update(_actors(pool, 1)) or len(seen) == 3)
  totals = pool.totals()
  assert totals.restarts == 0 and pool.error is None
  assert totals.batched_rows >= totals.batches > 0
  assert min(totals) >= 0
  assert totals.inference_seconds > 0 and totals.environment_seconds > 0


# Step 50 comes after twelve trajectories, so that there are no failures in a
# row; a steady environment comes after failures without any.
@pytest.mark.parametrize(
  ('names', 'reason'),
  [
    ('RaisesAtStep50', 'broken on purpose'),
    ('ExitsAtStep50', 'process died'),
    ('SegfaultsAtStep50', 'process died'),
    ('SleepsAtStep50', 'no reply'),
    ('HangsAtStep50', 'no reply'),
    ('RaisesAtReset Steady', 'broken on purpose'),
    ('RaisesAtMake RaisesAtMake Steady', 'broken on purpose'),
    ('ExitsAtMake Steady', 'process died'),
    ('SleepsAtMake Steady', 'did not start within 2 s'),
  ],
)
def test_lost_environment_is_replaced(make, warnings, names, reason):
  pool = make(names, timeout=2.0)
  _wait_for(lambda: _actors(pool, 1) and pool.totals().restarts)
  for _ in range(3):
    trajectory = _take(pool)
    assert trajectory.env_outputs.done.shape == (_T + 1,)
  restarts = pool.totals().restarts
  assert restarts >= 1 and pool.error is None
  first = warnings()[0]
  assert first.startswith('Actor 0 (gym:broken_environments:')
  assert 'trajectory is dropped' in first and reason in first
  pool.close()
  assert len(warnings()) >= restarts


def test_unfinished_trajectory_is_dropped(make):
  """Each process makes 49 steps: twelve trajectories of four steps, no more."""
  pool = make('RaisesAtStep50')
  starts = []
  for index in range(30):
    trajectory = _take(pool)
    step = trajectory.env_outputs.info.episode_step.numpy()
    if step[0] == 0:
      starts.append(index)
    # Within a trajectory no step is missing.
    assert all(b == a % 10 + 1 for a, b in itertools.pairwise(step))
  assert starts == [0, 12, 24]


def test_killed_processes_are_replaced(make):
  pool = make('Steady', 'Steady')
  for restarts in range(1, 6):
    _actors(pool, 3)
    environment = pool._processes[restarts % 2]
    os.kill(environment.pid, signal.SIGKILL)
    _wait_for(
      lambda n=restarts: _actors(pool, 1) and pool.totals().restarts == n
    )
  seen = set()
  _wait_for(lambda: seen.update(_actors(pool, 1)) or len(seen) == 2)
  assert pool.error is None


@pytest.mark.parametrize(
  'name', ['RaisesAtMake', 'RaisesAtReset', 'ExitsAtMake', 'SleepsAtReset']
)
def test_level_that_never_starts_ends_the_run(make, warnings, name):
  pool = make(name, 'Steady', timeout=2.0)
  message = f'{name}-v0 failed {actor_pool.MAX_FAILURES} times'
  with pytest.raises(process.EnvironmentFailure, match=message):
    _actors(pool, 10**6)
  assert len(warnings()) == actor_pool.MAX_FAILURES - 1


@pytest.mark.parametrize('name', ['RaisesAtStep5', _slow('SleepsAtStep5')])
def test_failure_before_a_trajectory_is_none_after_it(make, name):
  """Step 5 comes one step after the first trajectory."""
  pool = make(name, timeout=1.0)
  _actors(pool, actor_pool.MAX_FAILURES + 2)
  assert pool.error is None


@pytest.mark.parametrize('name', ['RaisesAtStep5', 'RaisesAtReset Steady'])
def test_failures_use_no_permits_up(make, name):
  """An actor whose unroll is lost may begin another."""
  pool = make(name, lockstep=True)
  for _ in range(4):
    pool.permits.enqueue(0)
    _take(pool)
  time.sleep(0.5)
  assert int(pool.queue.size()) == 0 and pool.error is None


def test_failure_at_the_last_step_of_the_first_trajectory(make):
  pool = make('RaisesAtStep5', unroll_length=5)
  _wait_for(lambda: pool.error)
  assert 'gave no trajectory' in str(pool.error)
  assert str(pool.error).endswith('broken on purpose\n')


def test_user_error_ends_the_run_at_once(make, launcher):
  pool = make('Steady', 'DoesNotExist')
  _wait_for(lambda: pool.error)
  assert isinstance(pool.error, protocol.UserError)
  assert 'DoesNotExist' in str(pool.error)
  assert pool.totals().restarts == 0


def test_different_environments_are_a_user_error(make):
  pool = make('Steady', 'Other')
  _wait_for(lambda: pool.error)
  assert isinstance(pool.error, protocol.UserError)
  assert 'num_actions=4' in str(pool.error)
  assert 'num_actions=3' in str(pool.error)


def test_process_that_cannot_be_started_ends_the_run(make, monkeypatch):
  pool = make('RaisesAtReset')

  def refuse(*_):
    raise OSError('too many processes')

  monkeypatch.setattr(pool, '_start_process', refuse)
  _wait_for(lambda: pool.error)
  assert 'too many processes' in str(pool.error)


def _closes(pool, seconds=10.0):
  began = time.monotonic()
  pool.close()
  pool.close()
  assert time.monotonic() - began < seconds
  assert pool.error is None
  assert not [t for t in pool._threads if t.is_alive()]
  pool.totals()


# From before the first process is there, through tracing, to acting.
@pytest.mark.parametrize('seconds', [0, 0.05, 0.2, 0.4, 0.8, 1.5])
@pytest.mark.parametrize('lockstep', [False, _slow(True)])
def test_close_at_any_moment(make, seconds, lockstep):
  pool = make('Steady', 'Steady', lockstep=lockstep)
  time.sleep(seconds)
  _closes(pool)


@pytest.mark.parametrize(
  'name',
  [
    'SleepsAtMake',
    _slow('HangsAtMake'),
    _slow('SleepsAtReset'),
    'HangsAtStep5',
  ],
)
def test_close_while_an_environment_hangs(make, launcher, name):
  pool = make('Steady', name)
  _actors(pool, 3)
  time.sleep(0.5)
  _closes(pool)
  _wait_for(lambda: not psutil.Process(launcher._process.pid).children())


def test_close_in_inference(make):
  pool = make('Steady', 'Steady', seconds=0.5)
  _wait_for(lambda: pool.totals().batches)
  _closes(pool)


def test_close_while_replacing(make):
  """Processes die all the time."""
  for delay in (0.1, 0.3, 0.5):
    pool = make('RaisesAtStep50', 'ExitsAtStep50')
    stop = threading.Event()

    def drain(pool=pool, stop=stop):
      while not stop.is_set():
        try:
          pool.queue.dequeue()
        except tf.errors.OpError:
          return

    threading.Thread(target=drain, daemon=True).start()
    _wait_for(lambda pool=pool: pool.totals().restarts > 1)
    time.sleep(delay)
    _closes(pool)
    stop.set()


def test_nothing_is_left(make, launcher):
  me = psutil.Process()

  def once():
    pool = make('Steady', 'RaisesAtStep50', 'ExitsAtStep50')
    _wait_for(lambda: _actors(pool, 1) and pool.totals().restarts > 2)
    pool.close()
    gc.collect()
    return me.num_fds()

  once()
  first = once()
  last = 0
  for _ in range(3):
    last = once()
  # The pools themselves are kept by the fixture, with their last channels.
  assert last - first <= 3 * 3 * 4
  _wait_for(lambda: not psutil.Process(launcher._process.pid).children())
  assert not [t for t in threading.enumerate() if t.name.startswith('actor-')]


def test_environment_seeds_differ():
  seeds = {
    actor_pool.environment_seed(*numbers)
    for numbers in itertools.product(range(3), repeat=4)
  }
  assert len(seeds) == 3**4
  assert all(0 <= seed < 2**31 for seed in seeds)
