/** Small workspaces, and what may happen to them between two commands. A step is a script, or a command of Bazel. */
import fc from "fast-check";

/** What happens next. */
export type Step =
  | { sh: string }
  | { bazel: string[]; startup?: string[]; env?: Record<string, string> };

/** A workspace's beginning: a script that makes it, in its folder; `$D/outside` is a folder beside it. */
export const BEGINNING = String.raw`
mkdir -p p/src p/deep/er q "$D/outside/d" "$D/repository"
: > WORKSPACE
# Through it //... would lead a server into the output base of another one, where stock Bazel stumbles over its own tools.
echo bazel-ws > .bazelignore
cat > p/BUILD <<'BUILD'
genrule(
    name = "all",
    srcs = glob(["src/**", "deep/**", "*.txt"]),
    outs = ["all.out"],
    cmd = "for f in $(SRCS); do echo \"== $$f\"; cat \"$$f\"; done > $@",
    visibility = ["//visibility:public"],
)
genrule(
    name = "good",
    srcs = glob(["src/**"]),
    outs = ["good.out"],
    cmd = "cat $(SRCS) > $@ < /dev/null; ! grep -q FAIL $@",
)
genrule(name = "tree", srcs = ["one.txt"], outs = ["a/x.out", "a/b/y.out"], cmd = "cp $< $(location a/x.out); cp $< $(location a/b/y.out); chmod 755 $(location a/x.out)")
BUILD
cat > q/BUILD <<'BUILD'
genrule(name = "next", srcs = ["//p:all", "own.txt"], outs = ["next.out"], cmd = "cat $(SRCS) > $@")
genrule(name = "run", outs = ["run.sh"], cmd = "printf '#!/bin/sh\\necho ran \"$$@\"\\n' > $@", executable = True)
BUILD
for f in p/one.txt p/src/a.txt p/src/b.txt p/deep/er/c.txt q/own.txt "$D/outside/o" "$D/outside/d/e"; do basename "$f" > "$f"; done
# What is older than a second ago can be told by its times.
find . "$D/outside" -type f -exec touch -d '1 hour ago' {} +
`;

const FILES = [
  "p/one.txt",
  "p/src/a.txt",
  "p/src/b.txt",
  "p/src/new.txt",
  "p/deep/er/c.txt",
  "q/own.txt",
  "p/src/sub/x.txt",
];
const OUTSIDE = ["$D/outside/o", "$D/outside/d/e", "$D/outside/d/f"];
const LINKS = ["p/src/link", "p/link.txt", "p/deep/link"];
/** Several actions with -k only: without it, it is Bazel's race which of the others still run when one fails. */
const TARGETS = ["//p:all", "//p:good", "//p:tree", "-k //q:next", "-k //...", "-k //p:all //q:next"];

const file = fc.constantFrom(...FILES);
const word = fc.constantFrom("one", "two", "FAIL", "", "$(printf 'long%.0s' {1..2000})");

/** Makes a place for a file, whatever stands there. */
const way = (path: string) =>
  `rm -rf "${path}"; mkdir -p "$(dirname "${path}")" 2>/dev/null || { rm -f "$(dirname "${path}")"; mkdir -p "$(dirname "${path}")"; }`;

/** No event tells that a file has got another name: that is found within two seconds, more on a busy machine. */
const namesSeen = `{ [ $(stat -c %h "$D/outside/other") = 1 ] || sleep 4; }`;

const edits: fc.Arbitrary<string> = fc.oneof(
  fc.tuple(file, word).map(([f, w]) => `${way(f)}; echo ${w} > "${f}"`),
  fc.tuple(file, word).map(([f, w]) => `[ -f "${f}" ] && echo ${w} >> "${f}" || :`),
  // Of the same length, with the time set back a little: not to what it was.
  file.map((f) => `[ -f "${f}" ] && tr a-y b-z < "${f}" > "$D/t" && cat "$D/t" > "${f}"; rm -f "$D/t"`),
  fc.tuple(file, word).map(([f, w]) => `${way(f)}; echo ${w} > "${f}.tmp"; mv "${f}.tmp" "${f}"`),
  file.map((f) => `rm -rf "${f}"`),
  file.map((f) => `[ -f "${f}" ] && chmod 755 "${f}" || :`),
  file.map((f) => `[ -f "${f}" ] && touch "${f}" || :`),
  fc.tuple(file, file).map(([a, b]) => a === b ? ":" : `[ -f "${a}" ] && { ${way(b)}; mv "${a}" "${b}"; } || :`),
  fc.constantFrom("src", "deep").map((d) =>
    `[ -d p/${d} ] && { mv p/${d} p/moved; mkdir p/${d}; mv p/moved p/${d}/was; } || :`
  ),
  fc.tuple(
    fc.constantFrom(...LINKS),
    fc.constantFrom(...OUTSIDE, "$D/outside/d", "../../outside/d", "one.txt", "nowhere"),
  )
    .map(([l, t]) => `mkdir -p "$(dirname ${l})"; rm -rf ${l}; ln -s "${t}" ${l}`),
  fc.constantFrom(...LINKS).map((l) => `rm -rf ${l}`),
  fc.tuple(fc.constantFrom(...OUTSIDE), word).map(([f, w]) => `echo ${w} > "${f}"`),
  // A file of two names, and a change by the other one.
  file.map((f) => `[ -f "${f}" ] && ln -f "${f}" "$D/outside/other" || :`),
  word.map((w) => `[ -f "$D/outside/other" ] && ${namesSeen} && echo ${w} >> "$D/outside/other" || :`),
  // The server, or what stands for it here, is killed.
  fc.constant(
    `kill -9 $(cat "$D-out/$(printf %s "$D/ws" | md5sum | cut -d " " -f 1)/server/server.pid.txt") 2> /dev/null || :`,
  ),
  // A folder outside that the links reach by another link.
  fc.constantFrom("d", "e").map((d) =>
    `mkdir -p "$D/far/${d}"; echo far ${d} > "$D/far/${d}/f"; ln -sfn "../../far/${d}" "$D/outside/d/far"`
  ),
);

const commands: fc.Arbitrary<{ bazel: string[]; startup?: string[] }> = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(...TARGETS).map((targets) => ({ bazel: ["build", ...targets.split(" ")] })) },
  {
    weight: 1,
    arbitrary: fc.constantFrom("//p:all", "//q:all").map((t) => ({ bazel: ["query", `labels(srcs, ${t})`] })),
  },
  { weight: 1, arbitrary: fc.constant<{ bazel: string[] }>({ bazel: ["run", "//q:run", "--", "x y"] }) },
  { weight: 1, arbitrary: fc.constant<{ bazel: string[] }>({ bazel: ["clean"] }) },
  { weight: 1, arbitrary: fc.constant<{ bazel: string[] }>({ bazel: ["build", "-c", "opt", "//p:all"] }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom("//p:all", "-k //...").map((targets) => ({
      bazel: ["build", ...targets.split(" ")],
      startup: ["--output_base=$D-other"],
    })),
  },
);

/** Edits, and a command after every few of them. */
export const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.tuple(fc.array(edits, { minLength: 1, maxLength: 4 }), commands)
    .map(([scripts, command]): Step[] => [...scripts.map((sh) => ({ sh })), command]),
  { minLength: 3, maxLength: 8 },
).map((groups) => groups.flat());
