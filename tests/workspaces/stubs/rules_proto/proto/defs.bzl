"""Stands in for the rule set of this name where Bazel still has the rules built in and no registry is at hand."""

def proto_lang_toolchain(**attributes):
    native.proto_lang_toolchain(**attributes)

def proto_library(**attributes):
    native.proto_library(**attributes)
