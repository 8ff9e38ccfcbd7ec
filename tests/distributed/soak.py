"""A learner and actors that are killed, frozen and cut off at random.

  python tests/distributed/soak.py --seconds=600 --seed=1 --folder=/tmp/soak

At the end all is well again, and what they say and left behind is compared. On
an idle machine it takes three minutes more than the faults.
"""

import math
import pathlib
import random
import re
import signal
import socket
import sys
import time

import proxy
import psutil
from absl import app, flags

import impala
from impala import checkpoints, csv_log

FLAGS = flags.FLAGS
_SECONDS = flags.DEFINE_float('seconds', 600, 'How long there are faults.')
_SEED = flags.DEFINE_integer('seed', 1, 'Of the faults.')
_FOLDER = flags.DEFINE_string('folder', None, 'A new one.', required=True)

_EXPERIMENT = pathlib.Path(impala.__file__).parent / 'experiment.py'
_ENVIRONMENTS = (2, 3, 4, 2)  # Of each actor process.
_SPARED = 3  # The actor that is cut off, but neither killed nor frozen.
_BATCH, _UNROLL = 4, 20
_FRAMES = _BATCH * _UNROLL  # Of an update.
_KEPT = 3
_PATIENCE_SECONDS = 400.0  # For anything that must come, on a busy machine.
_SETTLED_SECONDS = 30.0  # After that, a process holds what it needs.
_MOST_GROWTH = 128e6  # Bytes, of a process.
_MOST_HANDLES = 40  # More than before: threads, or files and sockets.


class _Member:
  """One place in the cluster, and the process that has it at present."""

  def __init__(self, name, path, ready, arguments):
    self.name = name
    self._ready = ready
    self._path = path
    self._arguments = arguments
    self.state = 'gone'  # Or 'running' or 'frozen'.
    self.starts = 0
    self.growth = self.handles = 0  # The most that any process had.

  def start(self):
    with self._path.open('ab') as output:
      self._began = output.tell()
      self.process = psutil.Popen(
        [sys.executable, _EXPERIMENT, *self._arguments],
        stdout=output,
        stderr=output,
      )
    self.state = 'running'
    self.starts += 1
    self._ready_at = self._settled = None

  def is_ready(self):
    """Whether it says so, and minds signals to stop."""
    with self._path.open('rb') as output:
      output.seek(self._began)
      return self._ready in output.read()

  def kill(self):
    self.process.kill()
    self.process.wait()
    self.state = 'gone'

  def freeze(self):
    self.process.send_signal(signal.SIGSTOP)
    self.state = 'frozen'

  def thaw(self):
    if self.state == 'frozen':  # It may have been killed meanwhile.
      self.process.send_signal(signal.SIGCONT)
      self.state = 'running'

  def end(self):
    """Ends it as a user does."""
    self.state = 'gone'
    self.process.terminate()
    code = self.process.wait(_PATIENCE_SECONDS)
    assert code == 0, f'{self.name} ended with {code}:\n{self.output()[-3000:]}'

  def check(self):
    """Asserts that it lives; looks at what it holds."""
    if self.state != 'running':
      return
    code = self.process.poll()
    assert code is None, f'{self.name}: {code}\n{self.output()[-3000:]}'
    if self._ready_at is None and self.is_ready():
      self._ready_at = time.monotonic()
    if time.monotonic() < (self._ready_at or math.inf) + _SETTLED_SECONDS:
      return
    held = (
      self.process.memory_info().rss,
      self.process.num_threads() + self.process.num_fds(),
    )
    self._settled = self._settled or held
    self.growth = max(self.growth, held[0] - self._settled[0])
    self.handles = max(self.handles, held[1] - self._settled[1])

  def output(self):
    return self._path.read_text(errors='replace')

  def last_count(self, what):
    """The number that it told last, as in '12 unrolls were sent'."""
    return int(re.findall(rf'(\d+) unrolls were {what}', self.output())[-1])


class _Soak:
  """A cluster, its faults and their remedies."""

  def __init__(self, folder, seed):
    self.logdir = folder / 'run'
    self._random = random.Random(seed)
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    arguments = [
      '--level_name=gym:CartPole-v1', '--num_action_repeats=1',
      f'--unroll_length={_UNROLL}', f'--batch_size={_BATCH}',
      '--report_interval_secs=0.5', '--checkpoint_interval_secs=2',
      f'--checkpoints_kept={_KEPT}', '--epsilon=0.01',
      f'--logdir={self.logdir}',
    ]  # fmt: skip
    self.learner = _Member(
      'learner',
      folder / 'learner.txt',
      b'Actors may connect',
      [
        *arguments,
        '--job_name=learner',
        '--task=0',
        f'--learner_hosts=localhost:{port}',
      ],
    )
    self.proxies = [proxy.Proxy(port) for _ in _ENVIRONMENTS]
    self._failing = set()  # Proxies.
    self.actors = [
      _Member(
        f'actor {task}',
        folder / f'actor{task}.txt',
        b'bids welcome',
        [
          *arguments,
          '--job_name=actor',
          f'--task={task}',
          f'--num_envs={environments}',
          f'--learner_hosts=localhost:{self.proxies[task].port}',
        ],
      )
      for task, environments in enumerate(_ENVIRONMENTS)
    ]
    self.members = [self.learner, *self.actors]
    self.seen = {}  # All processes that there were, by pid.
    self._remedies = []  # (when, what)
    self.counts = {}
    self._kept_rows = {'metrics': [], 'episodes': []}
    self.lost = []  # Frames, with each learner that was killed.

  def rows(self, name):
    return list(csv_log.whole_rows(self.logdir / f'{name}.csv'))

  def frames(self):
    rows = self.rows('metrics')
    return int(rows[-1]['environment_frames']) if rows else 0

  def faults(self, seconds, kinds):
    """Lets things fail for some seconds, and heals them all."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
      self.fault(*self._random.choice(kinds))
      self.watch(self._random.uniform(1, 8))
    for _, remedy in self._remedies:
      remedy()
    self._remedies = []

  def watch(self, seconds):
    """Waits; applies remedies that are due, and looks at all processes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
      for entry in [r for r in self._remedies if time.monotonic() >= r[0]]:
        self._remedies.remove(entry)
        entry[1]()
      for member in self.members:
        member.check()
        if member.state == 'running':
          for process in (
            member.process,
            *member.process.children(recursive=True),
          ):
            self.seen[process.pid] = process
      time.sleep(0.2)

  def wait_for_frames(self, more):
    """Waits until all take part, and then for so many frames more."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while waiting := [m.name for m in self.members if not m.is_ready()]:
      assert time.monotonic() < deadline, f'{waiting} do not begin.'
      self.watch(0.5)
    frames = self.frames() + more
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while self.frames() < frames:
      assert time.monotonic() < deadline, f'It stays at {self.frames()} frames.'
      self.watch(0.5)

  def fault(self, kind, longest):
    """Lets something fail, for a while, that is well at present."""
    seconds = self._random.uniform(0, longest)
    if kind in ('cut', 'refuse', 'blackhole'):
      index = self._random.randrange(len(self.proxies))
      name, victim = f'link {index}', self.proxies[index]
      if index in self._failing:
        return
      if kind == 'cut':
        victim.cut()
      else:
        fail, heal = {
          'refuse': (victim.refuse, victim.accept),
          'blackhole': (victim.freeze, victim.thaw),
        }[kind]
        self._failing.add(index)
        fail()
        self._later(seconds, lambda: (self._failing.discard(index), heal()))
    else:
      what, kind = kind.split()
      victim = self.learner
      if what == 'actor':
        victim = self.actors[self._random.randrange(_SPARED)]
      name = victim.name
      if victim.state == 'gone':
        return
      if kind == 'frozen':
        if victim.state == 'frozen':
          return
        victim.freeze()
        self._later(seconds, victim.thaw)
      else:
        victim.kill()
        if victim is self.learner:
          self._note_checkpoint()
        self._later(seconds, victim.start)
    self.counts[kind, name] = self.counts.get((kind, name), 0) + 1
    print(f'{time.strftime("%X")} {name}: {kind}, {seconds:.1f} s', flush=True)

  def _later(self, seconds, remedy):
    self._remedies.append((time.monotonic() + seconds, remedy))

  def _note_checkpoint(self):
    """What is up to the newest checkpoint must still be there at the end."""
    saved = checkpoints.updates(self.logdir) * _FRAMES
    self.lost.append(max(self.frames() - saved, 0))
    for name in self._kept_rows:
      rows = [r for r in self.rows(name) if _frames(r) <= saved]
      before = self._kept_rows[name]
      assert rows[: len(before)] == before, f'{name}.csv has lost rows.'
      self._kept_rows[name] = rows

  def check_records(self):
    """Asserts that the files in the log directory agree."""
    for name, before in self._kept_rows.items():
      assert self.rows(name)[: len(before)] == before, f'{name}: rows are lost'
    metrics, episodes = self.rows('metrics'), self.rows('episodes')
    frames = [_frames(row) for row in metrics]
    assert frames == sorted(set(frames)), 'A row is there twice.'
    for row in metrics:
      assert _frames(row) == int(row['learner_steps']) * _FRAMES, row
    ended = [_frames(row) for row in episodes]
    assert ended == sorted(ended) and ended[-1] <= frames[-1]
    # CartPole's return is its length.
    for row in episodes:
      assert float(row['return']) == int(row['length']) <= 500, row
    assert sum(int(row['length']) for row in episodes) <= 2 * frames[-1]
    saved = checkpoints.updates(self.logdir)
    assert saved * _FRAMES == frames[-1], (saved, frames[-1])

  def check_rest(self, shared_before):
    """Asserts that nothing is left of what was started."""
    _, alive = psutil.wait_procs(self.seen.values(), timeout=30)
    assert not alive, alive
    deadline = time.monotonic() + 20
    while left := set(pathlib.Path('/dev/shm').iterdir()) - shared_before:
      assert time.monotonic() < deadline, left
      time.sleep(0.2)
    for member in self.members:
      assert member.growth < _MOST_GROWTH, f'{member.name} grows.'
      assert member.handles < _MOST_HANDLES, f'{member.name} collects handles.'
    names = sorted(path.name for path in self.logdir.iterdir())
    print('In the log directory:', *names)
    indices = [name for name in names if name.endswith('.index')]
    starts = self.learner.starts
    # Of a learner that was killed as it saved, something may be left.
    assert len(indices) <= _KEPT + starts, indices
    assert len(names) <= 3 * len(indices) + 2 * starts + 12


def _frames(row):
  return int(row['environment_frames'])


_LINKS = [('cut', 0), ('refuse', 10), ('blackhole', 10)]
_ALL = [
  *_LINKS, *_LINKS, ('blackhole', 60),
  *[('actor killed', 5)] * 3, *[('actor frozen', 20)] * 3,
  ('learner killed', 5), ('learner frozen', 10),
]  # fmt: skip


def main(_):
  folder = pathlib.Path(_FOLDER.value)
  folder.mkdir()
  shared = set(pathlib.Path('/dev/shm').iterdir())
  print(f'Seed {_SEED.value}, {_SECONDS.value:.0f} s of faults.')
  soak = _Soak(folder, _SEED.value)
  try:
    for member in soak.members:
      member.start()
    soak.wait_for_frames(2000)

    soak.faults(_SECONDS.value, _ALL)
    print(f'All is healed, at {soak.frames()} frames.', flush=True)
    soak.wait_for_frames(5000)
    spared = soak.actors[_SPARED]
    for member in soak.members:
      member.end()
    soak.check_records()
    print(
      f'{spared.name} sent {spared.last_count("sent")} unrolls; '
      f'of {soak.frames()} frames, kills of the learner lost {soak.lost}.'
    )

    # Where nobody is killed, each unroll that is sent arrives, once.
    first = soak.frames()
    for member in soak.members:
      member.start()
    soak.wait_for_frames(1000)
    soak.faults(40, [*_LINKS, ('actor frozen', 10), ('learner frozen', 5)])
    soak.wait_for_frames(1000)
    for member in [*soak.actors, soak.learner]:
      member.end()
    sent = sum(actor.last_count('sent') for actor in soak.actors)
    received = soak.learner.last_count('received')
    learned = (soak.frames() - first) // _UNROLL
    print(f'{sent} sent, {received} received, {learned} learned from')
    # What an actor was sending as it was told to stop it does not count; what
    # the learner had not learned from is in its inbox and its staging area.
    assert sent <= received <= sent + sum(_ENVIRONMENTS)
    assert learned <= received <= learned + 4 * _BATCH
    soak.check_records()
    soak.check_rest(shared)
  finally:
    for (kind, name), count in sorted(soak.counts.items()):
      print(f'{count:4} times {name}: {kind}')
    for member in soak.members:
      print(
        f'{member.name}: {member.starts} starts, grew by at most '
        f'{member.growth / 1e6:.0f} MB and {member.handles} handles'
      )
      if member.starts and member.process.poll() is None:
        member.process.kill()
        member.process.wait()
  print('All is well.')


if __name__ == '__main__':
  app.run(main)
