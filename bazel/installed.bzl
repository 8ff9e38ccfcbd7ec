"""The Python that tests run in, and the TensorFlow that it has."""

_QUESTION = """
import json, sys
import tensorflow as tf
flags = tf.sysconfig.get_compile_flags()
print(json.dumps({
    "python": sys.executable,
    "version": tf.__version__,
    "include": tf.sysconfig.get_include(),
    "defines": [flag[2:] for flag in flags if flag.startswith("-D")],
    "link_flags": tf.sysconfig.get_link_flags(),
}))
"""

_BUILD = """
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

cc_library(
    name = "tensorflow",
    hdrs = glob(["include/**"]),
    defines = {defines},
    includes = ["include"],
    linkopts = {link_flags},
)

py_runtime(
    name = "python",
    interpreter_path = "{python}",
    python_version = "PY3",
)

py_runtime_pair(
    name = "pythons",
    py3_runtime = ":python",
)

toolchain(
    name = "toolchain",
    toolchain = ":pythons",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def _installed_python_impl(ctx):
    root = ctx.path(Label("//:WORKSPACE")).dirname
    python = ctx.os.environ.get("IMPALA_PYTHON", "%s/.venv/bin/python" % root)
    answer = ctx.execute([python, "-c", _QUESTION])
    if answer.return_code:
        fail("\n".join([
            answer.stderr,
            "%s has no TensorFlow to compile the ops against." % python,
            "`make build` puts it in .venv; IMPALA_PYTHON names another Python.",
        ]))
    found = json.decode(answer.stdout)
    ctx.symlink(found["include"], "include")
    ctx.file("BUILD", _BUILD.format(
        python = found["python"],
        defines = found["defines"] +
                  ["IMPALA_TENSORFLOW_VERSION=\\\"%s\\\"" % found["version"]],
        link_flags = found["link_flags"],
    ))

installed_python = repository_rule(
    implementation = _installed_python_impl,
    doc = """Finds .venv/bin/python, or what IMPALA_PYTHON names.

    It is asked anew when the Bazel server starts, not when its packages change.
    """,
    environ = ["IMPALA_PYTHON"],
    local = True,
)
