"""Debian's Bazel without a network."""

def _stub_impl(ctx):
    for path, rules in ctx.attr.rules.items():
        ctx.file(path, "".join(["%s = native.%s\n" % (r, r) for r in rules]))
        ctx.file(path.rpartition("/")[0] + "/BUILD")
    ctx.file("BUILD", "".join([
        "filegroup(name = %r, visibility = [\"//visibility:public\"])\n" % name
        for name in ctx.attr.targets
    ]))

_stub = repository_rule(
    implementation = _stub_impl,
    attrs = {
        "rules": attr.string_list_dict(doc = "Native rules, by .bzl file."),
        "targets": attr.string_list(doc = "Empty targets."),
    },
)

def stubs_for_debian():
    """Stands for what Debian's Bazel would download, though nothing here uses it.

    It alone has no version: released Bazels get the real ones.
    """
    if native.bazel_version:
        return
    _stub(
        name = "rules_cc",
        rules = {"cc/defs.bzl": [
            "cc_binary",
            "cc_library",
            "cc_test",
            "cc_toolchain",
            "cc_toolchain_suite",
        ]},
    )
    _stub(
        name = "rules_java",
        rules = {"java/defs.bzl": [
            "java_binary",
            "java_import",
            "java_library",
            "java_runtime",
            "java_toolchain",
        ]},
    )
    _stub(
        name = "remote_coverage_tools",
        targets = [
            "coverage_report_generator",
            "lcov_merger",
        ],
    )
