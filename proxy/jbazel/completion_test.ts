import assert from "node:assert/strict";
import type { CompletedVerb } from "./completed_verb.ts";
import { completionScript, type Shell, SHELLS } from "./completion.ts";
import { TestPlace } from "./fake_services.ts";
import { VERBS } from "./invocation.ts";
import { runVerb } from "./verbs.ts";

/** What `jbazel completion` prints. */
async function script(shell: Shell): Promise<string> {
  const said: string[] = [];
  const context = {
    workingDirectory: "/",
    env: () => undefined,
    defaultJavabase: "/opt/javabase",
    self: "jbazel",
    say: (line: string) => void said.push(line),
    warn: (line: string) => assert.fail(line),
    progress: { write: () => {}, columns: () => undefined },
    signals: { on: () => () => {} },
    readToken: () => Promise.resolve(undefined),
  };
  assert.equal(await runVerb("completion", [shell], context), 0);
  return said.join("\n") + "\n";
}

/** Bazel's own completion, as far as a test needs it. */
const BAZEL_DOUBLE = `
_bazel_double() {
  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=("build " "query "); return; fi
  COMPREPLY=("\${COMP_WORDS[*]}|$COMP_LINE|$COMP_POINT|$1|$2|$3")
}
complete -F _bazel_double -o nospace bazel
`;

/** Asks a real bash for the completions of a command line, whose last word is the one to complete. */
async function complete(words: string[], { before = "", cwd = "/" } = {}): Promise<string[]> {
  const line = words.join(" ");
  const program = `${before}
${await script("bash")}
COMP_WORDS=("\${@:2}") COMP_CWORD=$(($# - 2)) COMP_LINE=$1 COMP_POINT=\${#1}
spec=$(complete -p jbazel)
[[ $spec =~ -F\\ ([^ ]+) ]] && "\${BASH_REMATCH[1]}" jbazel "\${!#}" "\${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { code, stdout, stderr } = await new Deno.Command("bash", {
    args: ["--norc", "--noprofile", "-c", program, "bash", line, ...words],
    cwd,
  }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assert.deepEqual([code, decode(stderr)], [0, ""]);
  return decode(stdout).split("\n").filter((found) => found !== "");
}

Deno.test("bash completes the verbs, and Bazel's commands where Bazel's own completion is there", async () => {
  assert.deepEqual(await complete(["jbazel", ""]), [...VERBS.map((v) => `${v} `), "--help ", "--version "]);
  assert.deepEqual(await complete(["jbazel", "s"]), ["setup ", "status "]);
  assert.deepEqual((await complete(["jbazel", ""], { before: BAZEL_DOUBLE })).slice(0, 3), [
    "build ",
    "query ",
    "setup ",
  ]);
});

Deno.test("bash completes a verb's options, and what follows them", async () => {
  assert.deepEqual(await complete(["jbazel", "setup", "--re"]), ["--remove"]);
  assert.deepEqual(await complete(["jbazel", "doctor", "--j"]), ["--json", "--javabase"]);
  assert.deepEqual(await complete(["jbazel", "setup", "--no"]), ["--no-try"]);
  assert.deepEqual(await complete(["jbazel", "completion", ""]), [...SHELLS, "--help", "-h"]);
  assert.deepEqual(await complete(["jbazel", "status", "--orchestrator", ""]), []);
  using place = new TestPlace();
  Deno.writeTextFileSync(`${place.root}/ws.rc`, "");
  const cwd = place.root;
  assert.deepEqual((await complete(["jbazel", "setup", "--rc", "w"], { cwd })).sort(), ["ws", "ws.rc"]);
  // bash splits words at "=".
  assert.deepEqual(await complete(["jbazel", "setup", "--javabase", "=", "w"], { cwd }), ["ws"]);
  assert.deepEqual((await complete(["jbazel", "doctor", "--state-dir", "="], { cwd })).sort(), ["state", "ws"]);
});

Deno.test("bash leaves Bazel's command lines to Bazel's own completion", async () => {
  const words = ["/opt/rbs/jbazel", "build", "//a"];
  const asBazel = "bazel build //a";
  assert.deepEqual(await complete(words, { before: BAZEL_DOUBLE }), [
    `${asBazel}|${asBazel}|${asBazel.length}|bazel|//a|build`,
  ]);
  assert.deepEqual(await complete(words), []);
});

Deno.test("quotes and brackets of a description get through", () => {
  const verbs: CompletedVerb[] = [{
    name: "x",
    description: "it's [a] test: yes",
    options: [{ names: ["--y"], description: "the user's [y]: all", value: "file" }],
    words: [],
  }];
  assert.match(completionScript("zsh", verbs), /'x:it'\\''s \[a\] test: yes'/);
  assert.match(completionScript("zsh", verbs), /'--y=\[the user'\\''s \\\[y\\\]\\: all\]:file:_files'/);
  assert.match(completionScript("fish", verbs), /-l y -r -F -d 'the user\\'s \[y\]: all'/);
});

/** The shells that may not be installed, and how each checks a script: zsh by reading it, fish by running its `complete`s. */
const CHECKERS = { zsh: ["-f", "-n"], fish: ["--no-config"] } as const;

for (const shell of ["zsh", "fish"] as const) {
  Deno.test(`the script for ${shell} is one to ${shell}, and names every verb and option`, async () => {
    const text = await script(shell);
    for (const verb of VERBS) assert.match(text, new RegExp(`\\b${verb}\\b`));
    assert.match(text, shell === "zsh" ? /'--javabase=\[.*\]:directory:_files -\/'/ : /-l javabase -x -a/);
    using place = new TestPlace();
    const file = `${place.root}/script`;
    Deno.writeTextFileSync(file, text);
    try {
      const { code, stderr } = await new Deno.Command(shell, { args: [...CHECKERS[shell], file] }).output();
      assert.deepEqual([code, new TextDecoder().decode(stderr)], [0, ""]);
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
      console.log(`${shell} is not installed: its syntax was not checked.`);
    }
  });
}
