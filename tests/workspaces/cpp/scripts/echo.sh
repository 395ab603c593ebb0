#!/bin/bash
for argument in "$@"; do printf 'argument: %s\n' "$argument"; done
printf 'RBS_TEST_VALUE: %s\n' "${RBS_TEST_VALUE-unset}"
printf 'called in: %s\n' "${BUILD_WORKING_DIRECTORY-unknown}"
cat
