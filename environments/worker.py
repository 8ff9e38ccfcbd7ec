"""An environment process: serves one environment over shared memory."""

import array
import json
import math
import os
import random
import select
import signal
import socket
import sys
import traceback

import numpy as np

from impala.environments import protocol, registry, shared_memory

# Of an error's text; JSON makes up to twelve bytes of a character.
_ERROR_CHARACTERS = 5000


def run(lifeline: socket.socket, request: dict) -> int:
  """Makes the environment of `request` and serves it until told to stop.

  Args:
    lifeline: Connected to the main process. Two messages go out on it: this
      process's pid with its pidfd; then the spec with the channel's file
      descriptors, or what went wrong. Its end, by the main process's will or
      death, ends this process.
    request: 'level' and 'options' (the fields of `protocol.Options`).

  Returns:
    The process's exit code.
  """
  # Raises in the midst of a step, so that the environment is still closed.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
  environment = None
  try:
    try:
      _send(lifeline, {'pid': os.getpid()}, [os.pidfd_open(os.getpid())])
      options = protocol.Options(**request['options'])
      random.seed(options.seed)
      np.random.seed(options.seed % 2**32)
      flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
      wake, reply = os.eventfd(0, flags), os.eventfd(0, flags)
      try:
        environment = registry.make(request['level'], options)
        memory = shared_memory.SharedMemory(environment.spec)
        spec = vars(environment.spec)
        _send(lifeline, {'spec': spec}, [memory.file, wake, reply])
      except protocol.UserError as error:
        _send(lifeline, {'user_error': str(error)[:_ERROR_CHARACTERS]})
        return 1
      except Exception:
        text = traceback.format_exc()[-_ERROR_CHARACTERS:]
        _send(lifeline, {'error': text})
        return 1
      try:
        episodes = len(options.episode_seeds) or math.inf
        _serve(environment, memory, wake, reply, lifeline, episodes)
      except Exception:
        memory.write_failure(traceback.format_exc())
        os.eventfd_write(reply, 1)
        return 1
      return 0
    finally:
      # Both ends may come at once, and closing is not to be interrupted.
      signal.signal(signal.SIGTERM, signal.SIG_IGN)
  except OSError:
    return 1  # The main process has gone.
  finally:
    if environment is not None:
      environment.close()


def _send(lifeline, message, files=()):
  descriptors = array.array('i', files)
  lifeline.sendmsg(
    [json.dumps(message).encode()],
    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if files else [],
  )


def _serve(environment, memory, wake, reply, lifeline, episodes):
  """Steps the environment whenever `wake` is signalled."""
  poll = select.poll()
  poll.register(wake, select.POLLIN)
  poll.register(lifeline, select.POLLIN | select.POLLHUP)
  observation = environment.reset()
  memory.write(observation)
  os.eventfd_write(reply, 1)
  episode_return, episode_step = 0.0, 0
  while True:
    if any(file != wake for file, _ in poll.poll()):
      return
    os.eventfd_read(wake)
    step = environment.step(memory.action())
    episode_return += step.reward
    episode_step += 1
    episodes -= step.over
    if not step.over:
      observation = step.observation
    elif episodes:  # Else nothing will be done in the next.
      observation = environment.reset()
    memory.write(
      observation,
      step.reward,
      episode_return,
      episode_step,
      step.done,
      step.over,
    )
    if step.over:
      episode_return, episode_step = 0.0, 0
    os.eventfd_write(reply, 1)
