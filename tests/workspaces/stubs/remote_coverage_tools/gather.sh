#!/bin/bash
# Puts all that was measured into one file, one after the other. The real tools write lcov's format.
for argument; do
  case $argument in
    --coverage_dir=*) found=$(find "${argument#*=}" -name '*.gcov') ;;
    --reports_file=*) found=$(<"${argument#*=}") ;;
    --output_file=*) output=${argument#*=} ;;
  esac
done
cat $found /dev/null >"$output"
