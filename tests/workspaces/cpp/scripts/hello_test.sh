#!/bin/bash
expected=$'Hello, Ada!\nHello, Grace!\nHello, Linus!'
actual=$(./hello Linus)
[ "$actual" = "$expected" ] || { printf 'expected:\n%s\nbut got:\n%s\n' "$expected" "$actual" >&2; exit 1; }
